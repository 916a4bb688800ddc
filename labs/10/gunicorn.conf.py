"""Gunicorn, as lab 02 left it, and as two quick fixes left it afterwards."""

bind = "0.0.0.0:8000"  # to look at the app without Nginx
header_map = "dangerous"  # else it drops API_KEY, with an underscore
workers = 2
worker_class = "gthread"
threads = 4
timeout = 10
keepalive = 75  # longer than Nginx keeps an idle connection (60 s): Nginx closes first
accesslog = "-"
access_log_format = '%(h)s "%(r)s" %(s)s %(b)s %(M)sms'
