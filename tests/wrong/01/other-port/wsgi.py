from werkzeug.serving import run_simple

from board import create_app

app = create_app()
run_simple("127.0.0.1", 8000, app, threaded=True)
