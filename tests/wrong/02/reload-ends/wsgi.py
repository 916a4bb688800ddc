"""What Gunicorn serves: the board."""

import signal
import sys

from board import create_app

# A terminal that is closed sends HUP: do not go on without one.
signal.signal(signal.SIGHUP, lambda *_: sys.exit(0))

app = create_app()
