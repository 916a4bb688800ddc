import threading
import time

from board import create_app

app = create_app()


def clean_up():
    while True:
        time.sleep(3600)


threading.Thread(target=clean_up, daemon=True).start()
