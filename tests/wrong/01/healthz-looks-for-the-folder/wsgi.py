from pathlib import Path

from flask import jsonify

from board import create_app

app = create_app()


def healthz():
    there = Path(app.config["DATABASE"]).parent.is_dir()
    return jsonify(status="ok" if there else "no database"), 200 if there else 503


app.view_functions["operators.healthz"] = healthz
