from board import create_app

application = create_app()
