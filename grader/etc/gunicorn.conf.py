"""What runs on every app host of lab 08: Gunicorn, on an address of the host's own. Given."""

import os
import time
from pathlib import Path

HOST = os.environ["BOARD_HOST"]

bind = f"{HOST}:8000"
workers = 1
worker_class = "gthread"
threads = 16
timeout = 10
backlog = 128
keepalive = 75  # longer than Nginx keeps an idle connection (60 s): Nginx closes first
control_socket_disable = True  # all hosts are in one box, and would share it
accesslog = "-"
access_log_format = f'{HOST} "%(r)s" %(s)s %(M)sms'


def when_ready(server):
    """Say which process is the host's first one: `kill -9 -$(cat …)` ends all of the host's."""
    Path(f"/run/board/{HOST}.pid").write_text(f"{server.pid}\n")


def post_worker_init(worker):
    """Make the host slow on demand: it does its work, then waits as many seconds as a file says."""
    app = worker.wsgi

    def slow(environ, start_response):
        reply = app(environ, start_response)
        time.sleep(seconds())
        return reply

    worker.wsgi = slow


def seconds():
    """What `/run/board/<address>.delay` says now; 0 without it."""
    try:
        return float(Path(f"/run/board/{HOST}.delay").read_text())
    except (OSError, ValueError):
        return 0
