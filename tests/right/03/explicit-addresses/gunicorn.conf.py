"""Gunicorn, as lab 02 left it: reachable from this machine alone. Nothing to do here."""

bind = "[::1]:8000"
workers = 2
worker_class = "gthread"
threads = 4
timeout = 10
keepalive = 75  # longer than Nginx keeps an idle connection (60 s): Nginx closes first
accesslog = "-"
access_log_format = '%(h)s "%(r)s" %(s)s %(b)s %(M)sms'
