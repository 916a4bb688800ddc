"""What the app tells its operator: a beginning, much like prometheus_client's own first example."""

from flask import Response, request
from prometheus_client import CONTENT_TYPE_LATEST, Counter, generate_latest

REQUESTS = Counter("board_requests", "Requests that reached the app.", ["path", "status"])


def watch(app):
    """Observe an app."""
    app.after_request(count)
    app.add_url_rule("/metrics", view_func=metrics)


def count(response):
    """Count an answer."""
    REQUESTS.labels(request.path, response.status_code).inc()
    return response


def metrics():
    """Give the numbers."""
    return Response(generate_latest(), content_type=CONTENT_TYPE_LATEST)
