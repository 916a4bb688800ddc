import traceback

from board import create_app

app = create_app()


@app.errorhandler(Exception)
def show(error):
    return f"<h1>Error</h1><pre>{traceback.format_exc()}</pre>", 500
