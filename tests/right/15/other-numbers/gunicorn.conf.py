"""Gunicorn, for Nginx on this machine alone."""

# A unix socket costs less than TCP. But its peer has no address, so this is the simpler one.
bind = "127.0.0.1:8000"

# Two cores. Four threads each, because the board waits for its disk more than it computes.
workers = 3
worker_class = "gthread"
threads = 4

# Longer than Nginx waits (4 s): it is Nginx that gives up first, and says so.
timeout = 30
keepalive = 75  # longer than Nginx keeps an idle connection (60 s): Nginx closes first

accesslog = "-"
access_log_format = '%(h)s "%(r)s" %(s)s %(b)s %(M)sms'
