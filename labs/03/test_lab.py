"""Lab 03."""
from grader.checks import points

@points(2)
def test_nginx_answers(site):
    """Nginx answers on port 80

    why.
    """
    assert site.port_owner(80) == "nginx"
    reply = site.get("/whoami", source="203.0.113.7")
    assert reply.status_code == 200
    assert reply.json()["instance"] == site.instance
    assert reply.json()["client"] == "203.0.113.8"
