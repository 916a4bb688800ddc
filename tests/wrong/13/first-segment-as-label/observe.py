"""What the app tells its operator: its log, its metrics, whether it is well."""

import logging
import time

from flask import Response, g, has_request_context, jsonify, request
from flask.logging import default_handler
from flask.signals import request_finished, request_started, request_tearing_down
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

# One number is kept for each value of a label, for ever. So a label has values that we know
# beforehand: a status is one, a path or a method is whatever a visitor makes up.
REQUESTS = Counter("board_requests", "Requests that reached the app.", ["status", "area"])
SECONDS = Histogram("board_request_seconds", "How long the app worked on a request.")
# livesum: added up over the workers that live. What a dead one had in hand is in hand no more.
IN_PROGRESS = Gauge("board_requests_in_progress", "Requests in hand.", multiprocess_mode="livesum")


def watch(app):
    """Observe an app."""
    default_handler.addFilter(add_request_id)
    default_handler.setFormatter(
        logging.Formatter("%(asctime)s %(levelname)s %(request_id)s %(message)s")
    )

    # Signals, because these come for every request: before any function of the app's could refuse
    # it, and after the error pages.
    request_started.connect(began, app)
    request_finished.connect(answered, app)
    request_tearing_down.connect(ended, app)

    app.add_url_rule("/metrics", view_func=metrics)

    # The board's own /healthz asks for the database. That is the question whether it can serve. Who
    # restarts a process because a disk is gone has two problems.
    app.add_url_rule("/readyz", "readyz", app.view_functions["operators.healthz"])
    app.view_functions["operators.healthz"] = alive


def add_request_id(record):
    """Give each line of the log the id of the request that it is about."""
    known = request.headers.get("X-Request-ID") if has_request_context() else None
    record.request_id = known or "-"
    return True


def began(_app):
    """Note when the app took a request in hand."""
    g.began = time.perf_counter()
    IN_PROGRESS.inc()


def answered(_app, response):
    """Count an answer."""
    REQUESTS.labels(response.status_code, request.path.split("/")[1]).inc()
    SECONDS.observe(time.perf_counter() - g.began)


def ended(_app, exc=None):
    """Note that a request is out of hand, however it ended."""
    IN_PROGRESS.dec()


def metrics():
    """Give the numbers of all workers together: each one keeps its own in files, and reads all."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def alive():
    """Say that this process answers, and nothing about what it needs."""
    return jsonify(status="alive"), 200, {"Cache-Control": "no-store"}
