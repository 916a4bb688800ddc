"""Lab 11, Let's Encrypt: the checks. README.md says what each one asks for."""

import functools
import itertools
import re
import secrets
import ssl

from cryptography import x509

from grader import acme
from grader.acme import lead_away, lead_back
from grader.board import LOGIN, check_account_is_there, told_by
from grader.checks import alone, by_hand, look_at, needs, points
from grader.commands import run
from grader.errors import GraderError, Mismatch, NotLive
from grader.machine import File
from grader.schedule import cron_schedules, delays, timer_schedule
from grader.site import wait_for

NAMES = ("board.example", "www.board.example")
LIVE = "/etc/letsencrypt/live/board.example"
WEBROOT = "/var/www/letsencrypt"
CHALLENGES = "/.well-known/acme-challenge"
FOR_GOOD = (301, 308)
FILE = "/static/style.css"
TARGET = "/echo/a%2Fb//c?x=1&x=2"  # what $uri would change
REDIRECTED = (("GET", TARGET), ("GET", "/"), ("GET", FILE), ("GET", "/healthz"), ("POST", "/login"))
LATER = 40  # days; of 45, so that few are left
SCRIPT_SECONDS = 90.0
RELOAD_SECONDS = 10.0
DAY, HOUR = 24 * 3600, 3600
CHANCE = HOUR // 2  # seconds that some starts of many lie apart, when they are random over an hour
CUT = "In a cron table a % ends the command, unless it is written \\%."
BATCHES, STARTS = 2, 16  # that are tried to see some that lie apart
MOST_BATCHES = 32  # of a command that keeps others like it from starting, with flock for example
# How fast the clock is meanwhile. A busy machine starts a command seconds late: three seconds of
# ours are CHANCE on this clock.
SPEED = 600
LATE = 1.0 * SPEED
# Prints files with a private key in them. With the argument `open`: those that others than the
# owner may read, or that lie where visitors look, archives and all. With `pem`: those that a
# program would read as they are, closed ones too.
KEYS = r"""
import contextlib, os, re, subprocess, sys, tarfile
PEM = re.compile(rb"(?m)^[ \t]*-----BEGIN [A-Z ]*PRIVATE KEY-----\s+(?:[\w-]+: .*\s+)*[\w+/=]{16}")
ACCOUNT = re.compile(rb'"d": *"[\w-]{16}')  # the private part of a JSON Web Key
PACKED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
MOST = 1 << 20  # bytes of a file

def is_text_key(data):
    return PEM.search(data) or b'"kty"' in data and ACCOUNT.search(data)

def in_archive(path):
    with contextlib.suppress(tarfile.TarError, EOFError), tarfile.open(path) as archive:
        inside = [one for one in archive if one.isfile() and one.size < MOST]
        return any(is_text_key(archive.extractfile(one).read()) for one in inside)

def opens_without_password(path):
    asked = ["openssl", "pkey", "-in", path, "-passin", "pass:", "-noout"]
    return not subprocess.run(asked, capture_output=True).returncode

def has_key(path, data):
    if data.startswith(PACKED) or data[257:262] == b"ustar":
        return in_archive(path)
    # Else what begins with a sequence of ASN.1: a key in DER, or PKCS 12.
    return is_text_key(data) or data.startswith(b"\x30") and opens_without_password(path)

def is_open(path):
    public = path.startswith(("/srv/board/static/", "/var/www/"))
    return public or os.stat(path).st_mode & 0o027

def files():
    for root in ("/etc", "/home", "/run", "/srv", "/tmp", "/var"):
        device = os.lstat(root).st_dev
        for folder, folders, names in os.walk(root):
            paths = {one: os.path.join(folder, one) for one in folders}
            # Neither what is mounted there, nor the ACME server's own.
            folders[:] = [
                one for one, path in paths.items()
                if os.lstat(path).st_dev == device and path != "/etc/acme"
            ]
            yield from (os.path.join(folder, one) for one in names)

for path in files():
    if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) > MOST:
        continue
    if sys.argv[1] == "pem" or is_open(path):
        with contextlib.suppress(OSError):
            data = open(path, "rb").read()
            if PEM.search(data) if sys.argv[1] == "pem" else has_key(path, data):
                print(path)
"""
ACCOUNTS = "find /etc/letsencrypt/accounts -name private_key.json -exec sha256sum {} + | sort"
STATE = f"sha256sum {LIVE}/privkey.pem {LIVE}/fullchain.pem; {ACCOUNTS}"


def script(site, name, days=0):
    """Run one of the learner's scripts, on a day to come if so; how it ended."""
    if site.box.real:
        raise NotLive("it takes an ACME server for tests, and only a box has one")
    later = ["faketime", "-f", f"+{days}d"] if days else []
    done = run(site, [*later, f"/srv/board/{name}"], env=acme.ENVIRONMENT, seconds=SCRIPT_SECONDS)
    if done.status is None:
        raise Mismatch(
            f"{name} comes to an end", f"it still runs after {SCRIPT_SECONDS:g} s", words(done)
        )
    return done


def words(done):
    """What a script said, for a card: what the ACME server complained about, and the end."""
    lines = [one.strip() for one in f"{done.stdout}\n{done.stderr}".splitlines()]
    telling = [
        one
        for one in lines
        if one.strip("- ") and not one.startswith(USUAL) and not re.search(NGINX_SAYS, one)
    ]
    # Where both names fail, always the same one first.
    details = sorted((one for one in telling if one.startswith("Detail:")), key=about_www)
    others = [one for one in telling if not one.startswith(OF_DETAILS)]
    text = " / ".join([*details[:1], *others[-2:]]) or "nothing"
    text = re.sub(r"(acme-challenge/)[\w-]+", r"\1…", text)
    return f"It said: {re.sub(': dial tcp .*?(?= / |$)', ': nobody is there', text)}"


def about_www(line):
    """Whether a line is about the second name."""
    return NAMES[1] in line


# What certbot says whatever happens.
USUAL = (
    *("Saving debug log", "Ask for help", "Hook '", "If you like", "* Donating", "NEXT STEPS"),
    *("Hint:", "Processing ", "Account registered", "/etc/letsencrypt/live"),
    *("These files will", "- The certificate will"),
)
NGINX_SAYS = r"\[(warn|notice)\]|nginx: (the )?configuration file"  # when it is told to reload
OF_DETAILS = ("Detail:", "Type:", "Domain:", "Identifier:")


@functools.cache
def issued(site):
    """Let the site get its first certificate, once."""
    done = script(site, "issue.sh")
    if done.status:
        raise Mismatch("issue.sh ends with status 0", f"status {done.status}", words(done))
    return done


def on_disk(site, note="", look_at=()):
    """The certificate that certbot keeps for the site."""
    pem = run(site, ["cat", f"{LIVE}/fullchain.pem"]).stdout
    try:
        return x509.load_pem_x509_certificate(pem.encode())
    except ValueError:
        got = "something else" if pem else "no such file"
        expected = f"a certificate in {LIVE}/fullchain.pem"
        raise Mismatch(expected, got, note, look_at) from None


def names_of(certificate):
    """The names that a certificate is for."""
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return []
    return sorted(found.value.get_values_for_type(x509.DNSName))


def shown(site, name, family=4):
    """The certificate that Nginx shows for a name, verified as a browser does.

    Raises:
        OSError: it does not verify, or there is none.
    """
    context = ssl.create_default_context(cadata=site.root)
    source = "203.0.113.7" if family == 4 else "2001:db8::7"
    with context.wrap_socket(site.connect(source, family, 443), server_hostname=name) as connection:
        return x509.load_der_x509_certificate(connection.getpeercert(binary_form=True))


def complaint(site, serial):
    """What keeps Nginx from showing a certificate for both names, to everybody; "" if nothing."""
    for name in NAMES:
        for family in (4, 6):
            where = f"{name}, over IPv{family}"
            try:
                if shown(site, name, family).serial_number != serial:
                    return f"{where}: another certificate"
            except OSError as error:
                reason = getattr(error, "verify_message", "") or getattr(error, "reason", "")
                said = str(reason or error.strerror or error)
                return f"{where}: {said.replace('_', ' ').lower()}"
    return ""


def must_show(site, serial, expected):
    """See that Nginx shows a certificate before long."""
    if not wait_for(lambda: not complaint(site, serial), RELOAD_SECONDS):
        seen = complaint(site, serial)
        raise Mismatch(expected, seen, hook_said(site), guilty(site, seen))


def hook_said(site):
    """What certbot tells of a hook that failed, when the first certificate came; or nothing."""
    said = "\n".join([issued(site).stdout, issued(site).stderr])
    failed = re.search(r"Hook '.*' reported error code \d+", said)
    if not failed:
        return ""
    output = re.search(r"ran with error output:\n(.*)", said, re.DOTALL)
    lines = [one.strip() for one in output[1].splitlines()] if output else []
    telling = [one for one in lines if one and not re.search(NGINX_SAYS, one)]
    return " / ".join([f"certbot: {failed[0]}", *telling[:1]])


def guilty(site, seen):
    """Where to look when Nginx does not show the certificate: by what was seen."""
    if "local issuer" in seen:
        return [("tls.conf", "ssl_certificate "), ("nginx.conf", "ssl_certificate ")]
    if "www." in seen and "IPv4" in seen:
        return [("tls.conf", "server_name"), ("nginx.conf", "server_name")]
    if "IPv6" in seen:
        return [("tls.conf", "listen"), ("nginx.conf", "listen")]
    remembered = run(site, ["cat", "/etc/letsencrypt/renewal/board.example.conf"]).stdout
    if "_hook" not in remembered:
        return [("issue.sh", "hook"), ("issue.sh", "certbot")]
    at = [("deploy-hook.sh", one) for one in ("systemctl", "nginx -", "nginx", "ln ", "")]
    return [*at, ("issue.sh", "hook")]


def state(site):
    """Certificate, key and account, as one text to compare."""
    return run(site, ["sh", "-c", STATE]).stdout


def must_be_unchanged(site, before):
    """See that certificate, key and account are what they were."""
    now = state(site)
    for path, what in (
        ("fullchain.pem", "certificate"),
        ("privkey.pem", "key"),
        ("private_key.json", "account"),
    ):
        were, are = (
            [line for line in text.splitlines() if line.endswith(path)] for text in (before, now)
        )
        if were != are:
            got = f"another {what}" if len(are) == len(were) else f"{len(are)} of them"
            raise Mismatch(f"the same {what} as before", got)


def place_challenge(site):
    """Do what certbot does: a file below the webroot, which Let's Encrypt will ask for."""
    # A token of Let's Encrypt's may have all of these.
    token, answer = f"{secrets.token_hex(16)}-_Z", secrets.token_hex(32).encode()
    site.box.write(File(f"{WEBROOT}{CHALLENGES}/{token}", answer))
    return f"{CHALLENGES}/{token}", answer


def challenge_is_answered(site, by_tls=False):
    """See that a challenge is answered, for both names and over both versions of IP.

    With `by_tls` it may be after a redirect to https: Let's Encrypt follows, and does not verify.
    """
    path, answer = place_challenge(site)
    for name in NAMES:
        for family in (4, 6):
            reply = site.get(path, host=name, family=family)
            if by_tls and reply.headers.get("Location", "").startswith(f"https://{name}/"):
                reply = site.get(path, host=name, family=family, scheme="https")
            if reply.status_code != 200 or reply.content != answer:
                got, texts = (
                    f"status {reply.status_code}",
                    ("location ~", "alias", "acme-", "location "),
                )
                if reply.headers.get("Location"):
                    got, texts = f"{got}, to {reply.headers['Location']}", ("return 30", "rewrite")
                elif reply.status_code == 200:
                    got += ", something else"
                at = [("nginx.conf", one) for one in texts]
                if by_tls:
                    at = [("deploy-hook.sh", "return 30"), ("tls.conf", "acme-"), *at]
                raise Mismatch(f"status 200 and the file, for {name} over IPv{family}", got, "", at)


def reload_works(site):
    """See that Nginx reads its files again when it is told to: then it has other workers."""
    nginx = site.service("nginx")
    if nginx.end()[0] is not None:
        raise Mismatch(
            "the Nginx that was started first still runs",
            "it was ended",
            "systemd started that one, and would know nothing of another.",
        )
    before = set(nginx.workers())
    start = len(site.error_log())
    nginx.reload()
    if not wait_for(lambda: (now := set(nginx.workers())) and not now & before, RELOAD_SECONDS):
        said = site.lab.learner_names(site.error_log()[start:]).splitlines()
        loud = [one.partition("[emerg] ")[2] for one in said if "[emerg]" in one]
        raise Mismatch(
            "Nginx can be reloaded, and started, as before",
            re.sub(r"^\d+#\d+: ", "", loud[0]) if loud else "it does not reload",
        )


def port_80_works(site):
    """See that a visitor on port 80 gets the app's page, or the way to https."""
    reply = site.get("/whoami")
    if reply.status_code in (301, 302, 307, 308):
        assert reply.headers.get("Location", "").startswith("https://")
    else:
        assert told_by(reply).get("instance") == site.instance, "the app itself must answer"


@points(1)
@look_at("nginx.conf", "ssl_certificate ", "listen 80")
def test_site_answers(site):
    """Nginx starts before there is a certificate

    To get a certificate, the site must answer on port 80. If Nginx does not start without one,
    there never is a first.
    """
    port_80_works(site)


@points(2)
@look_at("nginx.conf", "listen 80", "acme-challenge")
@by_hand(
    "mkdir -p /var/www/letsencrypt/.well-known/acme-challenge; "
    "echo hello > /var/www/letsencrypt/.well-known/acme-challenge/x; "
    "for f in 4 6; do curl -is$f http://board.example/.well-known/acme-challenge/x; done"
)
def test_challenge(site):
    """Challenges are answered before there is a certificate

    Let's Encrypt asks over http for a file that certbot has put there. It comes over IPv6 where a
    name has an IPv6 address.
    """
    challenge_is_answered(site)


HIDES_FAILURE = (
    *("|| true", "exit 0", "allow-subset", "||", "post-hook", "pre-hook", "openssl", "certbot"),
)


@points(2)
@look_at("deploy-hook.sh", "ln ")
@look_at("issue.sh", "post-hook", "pre-hook", "ln ", "|| true", "exit", "certbot")
@by_hand("./issue.sh; echo $?")
def test_first_try_fails(site):
    """A first try that fails says so, and breaks nothing

    DNS is often not ready on the first day. Whoever ran the script has to know, and the site must
    go on on port 80.
    """
    for name in NAMES:
        lead_away(site, name)
        try:
            done = script(site, "issue.sh")
        finally:
            lead_back(site, name)
        if not done.status:
            raise Mismatch(
                f"issue.sh ends with another status than 0, as {name} leads elsewhere",
                "status 0",
                words(done),
                [("issue.sh", one) for one in HIDES_FAILURE],
            )
        port_80_works(site)
        reload_works(site)
        port_80_works(site)


@points(3)
@needs(test_challenge)
@look_at("issue.sh", "certbot")
@by_hand("./issue.sh; echo $?")
def test_issue(site):
    """issue.sh gets a certificate for both names

    It is what you will run on the server, on the first day and whenever a name is added.
    """
    done = issued(site)
    found = on_disk(site, words(done))
    if names_of(found) != sorted(NAMES):
        raise Mismatch(
            " and ".join(NAMES),
            " and ".join(names_of(found)) or "no names",
            "",
            [("issue.sh", "-d"), ("issue.sh", "--domain")],
        )


@points(3)
@needs(test_issue)
@look_at("deploy-hook.sh", "nginx", "ln")
@look_at("issue.sh", "hook", "certbot")
@by_hand("./issue.sh; curl -i --cacert /etc/acme/root.pem https://board.example/whoami")
def test_served(site):
    """Then Nginx serves it, by itself

    A certificate on the disk protects nobody. Nobody is there to reload Nginx when it is renewed at
    night, so the same must work without you now.
    """
    issued(site)
    must_show(site, on_disk(site).serial_number, "the new certificate, verified, on port 443")
    for name, family in itertools.product(NAMES, (4, 6)):
        reply = site.get("/whoami", scheme="https", host=name, family=family)
        if reply.headers.get("Location") == "https://board.example/whoami" and name != NAMES[0]:
            continue
        told = told_by(reply)
        if told.get("instance") != site.instance:
            raise Mismatch("the app's own answer", "another", "", [("tls.conf", "proxy_pass")])
        if told.get("url") != f"https://{name}/whoami":
            header = "Proto" if str(told.get("url")).startswith("http://") else "Host"
            raise Mismatch(
                f"url https://{name}/whoami",
                f"url {told.get('url')}",
                "The app knows of https what Nginx tells it.",
                [("tls.conf", header), ("tls.conf", "proxy_pass")],
            )
    check_account_is_secure(site)


def check_account_is_secure(site):
    """See that the account's page, which often has a location of its own, knows of https too."""
    with site.visitor(scheme="https") as visitor:
        visitor.post("/login", data=LOGIN)
        page = visitor.get("/account")
    check_account_is_there(page)
    link = re.search(r'id="here">([^<]*)<', page.text)
    wanted = f"https://{NAMES[0]}/account"
    if not link or link[1] != wanted:
        raise Mismatch(
            f"on /account: link {wanted}",
            f"link {link[1] if link else '(none)'}",
            "A location with a proxy_set_header of its own inherits none.",
            [("tls.conf", "location = /account"), ("tls.conf", "location /account")],
        )


def files_with_keys(site, which):
    """Files with a private key in them: those that are open, or all that are PEM."""
    done = run(site, ["python3", "-c", KEYS, which])
    if done.status:
        raise GraderError(f"the keys could not be looked for: {done.stderr}")
    return sorted(done.stdout.splitlines())


def check_keys_are_closed(site, before=(), look_at=()):
    """See that no private key is where others get at it, but where one was before."""
    if found := [one for one in files_with_keys(site, "open") if one not in before]:
        seen = run(site, ["stat", "-c", "%A %U %n", *found]).stdout
        raise Mismatch(
            "no private key that others may read, or write", seen.strip(), look_at=look_at
        )


@points(2)
@needs(test_issue)
@look_at("deploy-hook.sh", "chmod", "privkey", "cat ", "tar ", "cp ")
@look_at("issue.sh", "chmod", "umask", "privkey")
@by_hand("./issue.sh; ls -lRL /etc/letsencrypt/live; ls -lR /etc/letsencrypt/archive")
def test_keys(site):
    """Keys are for their owner alone

    Whoever reads the key can be your site, towards everybody, as long as the certificate lasts.
    """
    issued(site)
    check_keys_are_closed(site)
    owner = run(site, ["sh", "-c", f"stat -L -c '%a %u' {LIVE}/privkey.pem; id -u"]).stdout.split()
    assert owner[1] == owner[2], "the key belongs to whoever ran issue.sh"


@points(1)
@needs(test_served)
@look_at("tls.conf", "ssl_certificate_key $", "ssl_certificate $", "ssl_certificate_key")
@look_at("nginx.conf", "ssl_certificate_key $", "ssl_certificate $", "ssl_certificate_key")
@by_hand(
    "./issue.sh; sleep 1; chmod 0 /etc/letsencrypt/archive/board.example/privkey1.pem; "
    "curl -i --cacert /etc/acme/root.pem https://board.example/whoami"
)
def test_key_is_root_s(site):
    """Nginx needs the key only when it reads its files

    On a server Nginx's workers are not root, and cannot read the key. The master can, when it
    starts or reloads.
    """
    issued(site)
    must_show(site, on_disk(site).serial_number, "the new certificate, verified, on port 443")
    keys = files_with_keys(site, "pem")
    try:
        run(site, ["chmod", "000", *keys])
        for name in NAMES:
            try:
                shown(site, name)
            except OSError as error:
                reason = getattr(error, "reason", "") or str(error)
                raise Mismatch(
                    "TLS as before, when nobody may read the key any more",
                    str(reason).replace("_", " ").lower(),
                    "A variable in the path makes the workers read the files, at every handshake.",
                ) from None
    finally:
        run(site, ["chmod", "600", *keys])


@points(2)
@needs(test_served)
@look_at("nginx.conf", "return 30", "acme-challenge", "listen 80")
@look_at("tls.conf", "return 30", "listen 80")
@by_hand(f"./issue.sh; curl -i 'http://board.example{TARGET}'")
def test_redirect(site):
    """With TLS, port 80 leads to https, and answers challenges

    The next challenge comes over http, in some weeks. A redirect that swallows it shows when the
    certificate has run out.
    """
    issued(site)
    must_show(site, on_disk(site).serial_number, "the new certificate, verified, on port 443")
    for name, family, (method, target) in itertools.product(NAMES, (4, 6), REDIRECTED):
        reply = site.request(method, target, host=name, family=family)
        wanted = [f"https://{one}{target}" for one in (name, NAMES[0])]
        if reply.status_code not in FOR_GOOD or reply.headers.get("Location") not in wanted:
            got = f"status {reply.status_code}, {reply.headers.get('Location', 'no Location')}"
            at = [("nginx.conf", f"location {target[:8]}"), ("nginx.conf", f"location = {target}")]
            at = [("nginx.conf", "[::]:80")] if family == 6 else at[: 2 * (target != "/")]
            raise Mismatch(f"a redirect for good to {wanted[0]}, over IPv{family}", got, "", at)
    challenge_is_answered(site, by_tls=True)


@points(2)
@needs(test_served)
@look_at("issue.sh", "force", "rm ", "renew-by-default", "certbot")
@by_hand("./issue.sh; ./issue.sh; ls /etc/letsencrypt/accounts/*/* /etc/letsencrypt/archive/*")
def test_rerun(site):
    """issue.sh can be run again: it changes nothing

    Scripts are run twice. Let's Encrypt gives five certificates for the same names in a week, and
    then makes you wait.
    """
    issued(site)
    before = state(site)
    done = script(site, "issue.sh")
    if done.status:
        raise Mismatch("status 0, the second time too", f"status {done.status}", words(done))
    must_be_unchanged(site, before)
    must_show(site, on_disk(site).serial_number, "the certificate served as before")


@points(2)
@needs(test_served)
@look_at("renew.sh", "force", "certonly", "checkend", "certbot")
@by_hand("./issue.sh; ./renew.sh; echo $?; ls /etc/letsencrypt/archive/*")
def test_not_due(site):
    """When nothing is due, renew.sh changes nothing

    It runs once a day or more, and a certificate is due every few weeks.
    """
    issued(site)
    before = state(site)
    done = script(site, "renew.sh")
    if done.status:
        raise Mismatch("status 0: there is nothing to do", f"status {done.status}", words(done))
    must_be_unchanged(site, before)
    must_show(site, on_disk(site).serial_number, "the certificate served as before")


def visit(site, context):
    """Ask for a page over https, on a new connection; tells whether it came."""
    with context.wrap_socket(
        site.connect("203.0.113.9", port=443), server_hostname=NAMES[0]
    ) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: board.example\r\nConnection: close\r\n\r\n")
        reply = b""
        while data := connection.recv(65536):
            reply += data
    return reply.startswith(b"HTTP/1.1 200 ") and reply.rstrip().endswith(b"</html>")


@alone
@points(4)
@needs(test_served)
@look_at("deploy-hook.sh", "nginx", "systemctl")
@look_at("issue.sh", "hook", "standalone", "certbot")
@look_at("renew.sh", "certbot")
@by_hand("./issue.sh; faketime -f +40d ./renew.sh; echo $?; ls /etc/letsencrypt/archive/*")
def test_renewal(site):
    """A renewal is served at once, and no visitor notices

    It happens several times a year, at night, while people are on the site.
    """
    issued(site)
    old = on_disk(site)
    must_show(site, old.serial_number, "the first certificate, verified, on port 443")
    accounts = run(site, ["sh", "-c", ACCOUNTS]).stdout
    were_open = files_with_keys(site, "open")
    context = ssl.create_default_context(cadata=site.root)
    with site.load(lambda: visit(site, context), threads=2) as visits:
        done = script(site, "renew.sh", LATER)
        if done.status:
            raise Mismatch(
                f"renew.sh ends with status 0, {LATER} days later",
                f"status {done.status}",
                words(done),
            )
        new = on_disk(site)
        if new.serial_number == old.serial_number:
            raise Mismatch(
                f"a new certificate when {acme.LIFETIME - LATER} of {acme.LIFETIME} days are left",
                "the old one",
                words(done),
                [("renew.sh", "checkend"), ("renew.sh", "mtime"), ("renew.sh", "certbot")],
            )
        must_show(site, new.serial_number, "the renewed certificate, verified, on port 443")
        enough = len(visits) + 4
        wait_for(lambda: len(visits) >= enough, RELOAD_SECONDS)
    assert names_of(new) == sorted(NAMES)
    assert run(site, ["sh", "-c", ACCOUNTS]).stdout == accounts, "the same account as before"
    if not all(one.value for one in visits):
        raise Mismatch(
            "all visits served during the renewal",
            "some were refused or cut",
            "A reload lets the old workers finish. A restart, or anything else that takes port 80 "
            "or 443 away, does not.",
            [("deploy-hook.sh", one) for one in ("quit", "stop", "restart", "kill", "nginx")],
        )
    # renew.sh may do what issue.sh did not; what that one did is another check's.
    places = [("renew.sh", one) for one in ("chmod", "tar ", "cp ", "privkey", "umask")]
    check_keys_are_closed(site, were_open, places)


@alone
@points(3)
@needs(test_served)
@look_at("renew.sh", "|| true", "exit 0", "; exit", "rm ", "certbot")
@by_hand("./issue.sh; faketime -f +40d ./renew.sh; echo $?")
def test_failed_renewal(site):
    """A renewal that fails says so, and the old one is served

    There are days left then. They help only those who are told, and whose site goes on meanwhile.
    """
    issued(site)
    must_show(site, on_disk(site).serial_number, "the first certificate, verified, on port 443")
    lead_away(site, "www.board.example")
    for _ in range(3):
        serial = on_disk(site).serial_number
        before = acme.validations(site, "www.board.example")
        done = script(site, "renew.sh", LATER)
        # Now and then Pebble needs no new answer: then nothing has failed, and nothing could.
        if done.status or acme.validations(site, "www.board.example") > before:
            break
    if not done.status:
        raise Mismatch(
            "renew.sh ends with another status than 0, as www.board.example leads elsewhere",
            "status 0",
            words(done),
        )
    gone = [("renew.sh", "delete"), ("renew.sh", "rm ")]
    if on_disk(site, look_at=gone).serial_number != serial:
        raise Mismatch("the old certificate, kept", "another", look_at=gone)
    must_show(site, serial, "the old certificate, served")
    reload_works(site)
    must_show(site, serial, "the old certificate, served after a reload too")


def schedules(site):
    """What starts renew.sh: by the timer, by cron, or both."""
    found = [timer_schedule(site, "renew.timer", "renew.service", "board-renew")]
    told = [one for one in [*found, *cron_schedules(site, "renew.cron")] if one]
    if not told:
        raise Mismatch("a timer in renew.timer, or a line in renew.cron", "neither")
    return told


def lines_of(schedule):
    """Where a schedule says when."""
    texts = ("OnCalendar", "OnUnit", "[Timer]") if schedule.file == "renew.timer" else ("* *", "@")
    return [(schedule.file, one) for one in texts]


@points(2)
@look_at("renew.timer", "OnCalendar", "OnUnit", "[Timer]")
@look_at("renew.cron", "renew.sh", "certbot", "* *")
@by_hand("systemd-analyze calendar --iterations=5 '*-*-* 00,12:00:00'")
def test_schedule(site):
    """renew.sh is started at least once a day

    Certificates get shorter: 45 days, six for those who want that. And a run that failed needs
    others after it.
    """
    told = schedules(site)
    for one in told:
        if not delays(site, one, 1, DAY, bool):
            raise Mismatch(
                "a start of /srv/board/renew.sh",
                f"{one.command!r} ends without one" if one.command else "no command",
                CUT if one.cut else "",
                [("renew.service", "ExecStart")] if one.file == "renew.timer" else lines_of(one),
            )
    best = min(told, key=lambda one: one.gap)
    if best.gap > DAY:
        days = best.gap / DAY
        got = f"{days:.0f} days" if days < 1000 else "no second start"
        raise Mismatch("at most 24 hours from one start to the next", got, "", lines_of(best))


@alone
@points(2)
@look_at("renew.timer", "RandomizedDelaySec", "OnCalendar", "[Timer]")
@look_at("renew.cron", "sleep", "renew.sh", "* *")
@by_hand("cat /etc/systemd/system/board-renew.timer /etc/cron.d/board-renew")
def test_staggered(make_site):
    """It is started at a random time

    Whoever copies these lines has the same times. Let's Encrypt asks everybody not to come all at
    once, at midnight above all.
    """
    site = make_site(start=False)
    for one in schedules(site):
        if one.chance >= HOUR:
            continue
        seen = starts_of(site, one)
        if seen and max(seen) > one.patience + LATE:
            raise Mismatch(
                "a start that systemd waits for",
                f"it sleeps {max(seen) / 60:.0f} minutes, and is given up after {one.patience:g} s",
                "For services of another type than oneshot, TimeoutStartSec is 90 s. A timer has "
                "RandomizedDelaySec for this.",
                [("renew.service", "ExecStartPre"), ("renew.service", "[Service]")],
            )
        if not seen:
            raise Mismatch(
                "starts of /srv/board/renew.sh", "none", CUT if one.cut else "", lines_of(one)
            )
        if spread(seen) < CHANCE:
            no_random = "RANDOM" in one.command and one.shell == "/bin/sh"
            raise Mismatch(
                "starts that lie up to an hour apart, or more, by chance",
                f"{len(seen)} starts, less than {CHANCE // 60} minutes apart"
                + (f"; RandomizedDelaySec is {one.chance / 60:.0f} minutes" if one.chance else ""),
                "sh, which cron uses, has no $RANDOM." if no_random else "",
                lines_of(one),
            )


def starts_of(site, schedule):
    """Start what a schedule starts until two starts lie apart: the delays that were seen."""
    seen = []
    for _ in range(MOST_BATCHES):
        before = tuple(seen)

        def far_apart(new, before=before):
            return spread([*before, *new]) >= CHANCE

        seen += delays(site, schedule, STARTS, SPEED, far_apart)
        if spread(seen) >= CHANCE or not seen or len(seen) >= BATCHES * STARTS:
            break
    return seen


def spread(times):
    """How far the first and the last of some times lie apart."""
    return max(times) - min(times) if times else 0.0
