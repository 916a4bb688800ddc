# Gunicorn's settings. It is started in /srv/board: gunicorn --config gunicorn.conf.py wsgi:app
