bind = "unix:/run/board/gunicorn.sock"
workers = 2
worker_class = "gevent"
worker_connections = 100
timeout = 20
accesslog = "-"
