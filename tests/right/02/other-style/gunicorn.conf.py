import os

host, port = os.environ.get("BOARD_LISTEN", "localhost:8000").rsplit(":", 1)

bind = [f"{host}:{port}"]
workers = int(os.environ.get("WEB_CONCURRENCY", "3"))
threads = 6
timeout = 10
max_requests, max_requests_jitter = 1000, 200
accesslog = "/dev/stdout"
access_log_format = "%(t)s %(h)s %(m)s %(U)s %(s)s %(B)s %(L)s"
loglevel = "warning"
