"""Gunicorn, as lab 10 left it. Under board.socket it listens where systemd does, not on `bind`."""

bind = "127.0.0.1:8000"
workers = 2
worker_class = "gthread"
threads = 4
timeout = 10
graceful_timeout = 30  # seconds that a request may still take when Gunicorn is told to stop
keepalive = 75  # longer than Nginx keeps an idle connection (60 s): Nginx closes first
accesslog = "-"
access_log_format = '%(h)s "%(r)s" %(s)s %(b)s %(M)sms'
