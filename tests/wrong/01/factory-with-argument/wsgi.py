import board


def create_app(config):
    app = board.create_app()
    app.config.update(config)
    return app
