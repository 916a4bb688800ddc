"""Gunicorn for the board: `gunicorn --config gunicorn.conf.py wsgi:app`."""

bind = "0.0.0.0:8000"
