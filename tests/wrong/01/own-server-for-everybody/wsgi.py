from werkzeug.serving import run_simple

from board import create_app

app = create_app()
run_simple("0.0.0.0", 5000, app, threaded=True)
