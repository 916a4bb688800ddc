from board import create_app

app = create_app()
app.secret_key = "8f42a73054b1749f8f58848be5e6502c"
