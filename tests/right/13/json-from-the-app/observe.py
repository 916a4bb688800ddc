"""What the app tells its operator: its log as JSON, numbers counted around the whole app."""

import json
import logging
import time

from flask import has_request_context, request
from werkzeug.wrappers import Response


class Json(logging.Formatter):
    """One line of JSON, a traceback included."""

    def format(self, record):
        """Make the line."""
        told = {"time": record.created, "level": record.levelname, "message": record.getMessage()}
        if has_request_context():
            told["id"] = request.headers.get("X-Request-ID")
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return json.dumps(told)


class Observed:
    """A WSGI app that counts what another one does, and tells it at /metrics."""

    def __init__(self, app):
        # Not before: Gunicorn's file, which imports this module for Json, names the folder.
        from prometheus_client import Counter, Gauge, Histogram

        self.app = app
        self.requests = Counter("board_requests", "Requests.", ["method", "kind"])
        self.seconds = Histogram("board_request_seconds", "Time.", buckets=[0.01, 0.1, 1, 10])
        self.in_progress = Gauge(
            "board_requests_in_progress", "In hand.", multiprocess_mode="livesum"
        )

    def __call__(self, environ, start_response):
        """Answer, and count."""
        if environ["PATH_INFO"] == "/metrics":
            return self.metrics()(environ, start_response)
        began = time.perf_counter()
        known = environ["REQUEST_METHOD"]
        method = known if known in ("GET", "HEAD", "POST") else "other"

        def started(status, headers, *rest):
            self.requests.labels(method, status[0] + "xx").inc()
            return start_response(status, headers, *rest)

        with self.in_progress.track_inprogress():
            try:
                return self.app(environ, started)
            finally:
                self.seconds.observe(time.perf_counter() - began)

    def metrics(self):
        """All workers' numbers."""
        from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
        from prometheus_client.multiprocess import MultiProcessCollector

        registry = CollectorRegistry()
        MultiProcessCollector(registry)
        return Response(generate_latest(registry), content_type=CONTENT_TYPE_LATEST)


def alive():
    """Say that this process answers."""
    return "alive\n"


def watch(app):
    """Observe an app."""
    app.add_url_rule("/readyz", "readyz", app.view_functions["operators.healthz"])
    app.view_functions["operators.healthz"] = alive
    app.wsgi_app = Observed(app.wsgi_app)
