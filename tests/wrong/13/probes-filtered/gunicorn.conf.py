"""Gunicorn: its log has the request's id, and all workers can read each other's numbers."""

import logging
import os
import shutil

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

# Where the workers keep their numbers, so that all can read them. prometheus_client looks here when
# it is first imported: this has to be known before the app is.
raw_env = ["PROMETHEUS_MULTIPROC_DIR=/run/board/metrics"]


class NoProbes(logging.Filter):
    """Probes come every few seconds, and say nothing."""

    def filter(self, record):
        return record.args.get("U") not in ("/healthz", "/readyz", "/metrics")


def post_fork(server, worker):
    logging.getLogger("gunicorn.access").addFilter(NoProbes())


def on_starting(server):
    """Begin with no numbers: those of the last run belong to processes that are gone."""
    folder = os.environ["PROMETHEUS_MULTIPROC_DIR"]
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)


def child_exit(server, worker):
    """Forget what a dead worker had in hand; what it has counted stays."""
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(worker.pid)
