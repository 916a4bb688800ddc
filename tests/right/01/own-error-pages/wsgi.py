from flask import request

from board import create_app

app = create_app()


@app.errorhandler(Exception)
def sorry(error):
    app.logger.exception("%s %s failed", request.method, request.path)
    if request.path.startswith("/api/"):
        return {"error": "InternalServerError"}, 500
    return "<!doctype html><title>Sorry</title><p>It is our fault, and we know.", 500
