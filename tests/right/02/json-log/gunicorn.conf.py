"""Gunicorn for the board: `gunicorn --config gunicorn.conf.py wsgi:app`."""

# Only this machine: Nginx will stand in front, and nobody should come past it.
bind = "127.0.0.1:8000"

# Two processes, because one can hang or die; threads, because the board mostly waits.
workers = 2
worker_class = "gthread"
threads = 8

# A worker with threads beats once a second even while all its threads wait: 3 s of silence is
# a frozen process, not a slow page.
timeout = 3

# A stop or a reload waits this long for requests that are under way.
graceful_timeout = 30

# A slow leak of memory ends with its worker. The jitter keeps workers from ending together.
max_requests = 400
max_requests_jitter = 100

# Who may say for whom a request comes, and over what: Nginx, on this machine.
forwarded_allow_ips = "127.0.0.1,::1"

access_log_format = (
    '{"at": "%(t)s", "client": "%(h)s", "request": "%(m)s %(U)s", "status": %(s)s, "us": %(D)s}'
)
logconfig_dict = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"plain": {"format": "%(message)s"}},
    "handlers": {
        "out": {
            "class": "logging.StreamHandler",
            "formatter": "plain",
            "stream": "ext://sys.stdout",
        },
        "err": {"class": "logging.StreamHandler", "formatter": "plain"},
    },
    "root": {"level": "INFO", "handlers": ["err"]},
    "loggers": {
        "gunicorn.access": {"level": "INFO", "handlers": ["out"], "propagate": False},
    },
}
