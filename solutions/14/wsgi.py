"""What uWSGI serves: the board. No ProxyFix: Nginx says who visits in variables, not in headers."""

from board import create_app

app = create_app()
