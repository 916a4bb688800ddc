"""No bind, no forwarded_allow_ips: the defaults are right. The rest by hooks."""

import random
import sys
import time

workers, threads = 3, 10
timeout = 8


def post_fork(server, worker):
    # Each worker draws its own number.
    worker.max_requests = random.randint(600, 900)


def pre_request(worker, req):
    req.began = time.monotonic()


def post_request(worker, req, environ, resp):
    took = time.monotonic() - req.began
    sys.stdout.write(f"{req.method} {req.path} -> {resp.status} in {took * 1000:.1f} ms\n")
    sys.stdout.flush()
