import secrets

from board import create_app

app = create_app()
app.secret_key = secrets.token_hex(32)
