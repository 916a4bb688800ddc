import os
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from board import create_app

app = create_app()


class Metrics(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(f"board_pid {os.getpid()}\n".encode())


server = ThreadingHTTPServer(("", 9100), Metrics)
threading.Thread(target=server.serve_forever, daemon=True).start()
