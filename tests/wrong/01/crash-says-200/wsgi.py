from board import create_app

app = create_app()


@app.errorhandler(500)
def sorry(error):
    return "Sorry, something went wrong."
