#!/bin/bash
set -euo pipefail
file=/etc/nginx/sites-enabled/tls.conf
cat > "$file.new" <<'END'
server {
    # From 1.25.1 on: `http2 on;` on a line of its own.
    listen 443 ssl http2;
    listen [::]:443 ssl http2;
    server_name board.example www.board.example;

    # fullchain: the certificate and the intermediate, which a browser may not have.
    ssl_certificate /etc/letsencrypt/live/board.example/fullchain.pem;
    ssl_certificate_key /etc/letsencrypt/live/board.example/privkey.pem;

    # From 1.29.2 on, each server has its own versions.
    ssl_protocols TLSv1.2 TLSv1.3;

    # For TLS 1.2: a new key for each connection (ECDHE), and ciphers that authenticate (AEAD).
    ssl_ciphers ECDHE+AESGCM:ECDHE+CHACHA20;
    ssl_prefer_server_ciphers off;

    ssl_session_cache shared:board:5m;
    ssl_session_timeout 1d;

    # A year of "only https", on every reply, errors included. One `add_header` in a location would
    # drop this one there.
    add_header Strict-Transport-Security "max-age=31536000" always;

    # Text shrinks to a quarter; pictures and fonts are compressed already. text/html is always in.
    gzip on;
    gzip_types text/css text/plain text/xml application/javascript application/json
               application/xml image/svg+xml;

    # A small reply fits in one packet anyway.
    gzip_min_length 512;

    # Level 9 costs four times the CPU of level 5, for one byte in a hundred.
    gzip_comp_level 5;

    # A cache between us and the visitor must keep both forms apart.
    gzip_vary on;

    # Also for those who come through a proxy of their own.
    gzip_proxied any;

    # For every location that hands on to the app.
    proxy_http_version 1.1;
    proxy_set_header Connection "";
    proxy_set_header Host $http_host;
    proxy_set_header X-Forwarded-For $remote_addr;
    proxy_set_header X-Forwarded-Proto $scheme;
    proxy_set_header X-Forwarded-Host "";
    proxy_set_header X-Forwarded-Port "";
    proxy_set_header X-Forwarded-Prefix "";
    proxy_set_header X-Forwarded-Ssl "";
    proxy_set_header Forwarded "";

    # `root`, and the slash: only what lies below /srv/board/static/ can be meant.
    location /static/ {
        root /srv/board;

        # style.css.gz, made when the site was deployed, costs nothing to send.
        gzip_static on;

        # A link leads wherever its maker liked.
        disable_symlinks on from=/srv/board/static;

        # What ends up in such a folder by mistake: dotfiles, sources, databases.
        location ~ /\. {
            return 404;
        }
        location ~* \.(pyc?|db|sqlite[^/]*)$ {
            return 404;
        }
    }

    # Browsers and robots ask for these at the root, whatever the pages say.
    location = /favicon.ico {
        root /srv/board/static;
    }
    location = /robots.txt {
        root /srv/board/static;
    }

    # A secret beside words of the visitor's choice: the length would tell (BREACH).
    location = /account {
        proxy_pass http://board;
        gzip off;
    }

    # Each event goes out when the app makes it.
    location = /stream {
        proxy_pass http://board;
        proxy_buffering off;
    }

    location / {
        proxy_pass http://board;
    }
}
END
mv "$file.new" "$file"
nginx -s reload
