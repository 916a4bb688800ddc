"""Gunicorn, as lab 02 left it: two workers, and a line for each request."""

bind = "127.0.0.1:8000"
workers = 2
worker_class = "gthread"
threads = 4
timeout = 10
keepalive = 75  # longer than Nginx keeps an idle connection (60 s): Nginx closes first
accesslog = "-"
access_log_format = '%(h)s "%(r)s" %(s)s %(b)s %(M)sms'
