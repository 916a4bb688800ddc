"""Gunicorn: its log has the request's id."""

bind = "127.0.0.1:8000"
workers = 2
worker_class = "gthread"
threads = 4
timeout = 10
keepalive = 75  # longer than Nginx keeps an idle connection (60 s): Nginx closes first

# To the terminal, the container or the journal, which look after it: no file to rotate. The id
# leads to Nginx's line, which has the rest. No query and no referrer, because secrets travel in
# them, and no decoded path, in which a visitor may have put the end of a line.
accesslog = "-"
access_log_format = "%({x-request-id}i)s %(m)s %(s)s %(M)sms"
