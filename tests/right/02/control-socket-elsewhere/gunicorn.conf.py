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

# One line per request, to standard output: systemd keeps it. %(M)s is the time in milliseconds.
accesslog = "-"
access_log_format = '%(h)s "%(r)s" %(s)s %(b)s %(M)sms'

bind = "unix:/run/board/gunicorn.sock"
control_socket = "/run/board/control.sock"
pidfile = "/run/board/gunicorn.pid"
worker_tmp_dir = "/dev/shm"
