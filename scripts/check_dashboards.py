"""The work of scripts/check-dashboards, with Python's own library alone.

Two replicas on one database, Redis and RabbitMQ; Prometheus scrapes them every second. Meanwhile donors give, pay, are
declined, dispute and are refunded, and watch totals. Then every query of every panel is asked.
"""

import glob
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from concurrent.futures import ThreadPoolExecutor

ADMIN_KEY = "check-dashboards-admin-key"
SANDBOX_KEY = "sk_test_sandbox"
LOAD_S = int(os.environ.get("LOAD_S", "40"))
CARDS = ["pm_card_visa"] * 6 + ["pm_card_chargeDeclined", "pm_card_createDispute", "pm_usBankAccount_success"]
# Grafana's own, at a scrape every second.
RATE_INTERVAL = "30s"


def call(method, url, body=None, form=None, token=None, timeout=30):
    headers = {}
    data = None
    if body is not None:
        data, headers["Content-Type"] = json.dumps(body).encode(), "application/json"
    if form is not None:
        data, headers["Content-Type"] = urllib.parse.urlencode(form).encode(), "application/x-www-form-urlencoded"
    if token:
        headers["Authorization"] = f"Bearer {token}"
    request = urllib.request.Request(url, data=data, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=timeout) as answer:
            text = answer.read()
            return answer.status, (json.loads(text) if text.startswith((b"{", b"[")) else text.decode())
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")


def free_port():
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return it.getsockname()[1]


def until(what, condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise SystemExit(f"waited in vain until {what}")


class Run:
    def __init__(self, program, directory):
        self.program, self.directory, self.children = program, directory, []
        self.database = "check_dashboards_" + secrets.token_hex(6)
        server = os.environ["DATABASE_URL"]
        before, _, query = server.partition("?")
        self.server = server
        self.database_url = before.rsplit("/", 1)[0] + "/" + self.database + ("?" + query if query else "")

    def sql(self, statement):
        subprocess.run(["psql", "-X", "-q", "-d", self.server, "-c", statement], check=True, stdin=subprocess.DEVNULL)

    def start(self, name, command, env=None):
        log = open(os.path.join(self.directory, name + ".log"), "w")
        child = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.children.append(child)
        return child

    def replica(self, number, more):
        port = free_port()
        env = {
            "PATH": os.environ["PATH"],
            "CAREFORALL_LISTEN": f"127.0.0.1:{port}",
            "CAREFORALL_DATA_DIR": os.path.join(self.directory, f"data-{number}"),
            "CAREFORALL_ADMIN_KEY": ADMIN_KEY,
            "CAREFORALL_RATE_LIMIT": "off",
            # The same every time: nothing here can remove queues, so that they must not become more.
            "CAREFORALL_PREFIX": "check-dashboards.",
            "DATABASE_URL": self.database_url,
            "REDIS_URL": os.environ["REDIS_URL"],
            "AMQP_URL": os.environ["AMQP_URL"],
            "RUST_LOG": "warn",
            **more,
        }
        self.start(f"replica-{number}", [self.program, "serve"], env)
        url = f"http://127.0.0.1:{port}"
        until(f"replica {number} is ready", lambda: call("GET", url + "/health/ready")[0] == 200)
        return url

    def prometheus(self, replicas):
        port = free_port()
        addresses = [url.removeprefix("http://") for url in replicas]
        command = ["scripts/prometheus-config", self.directory, *addresses]
        config = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
        with open(config) as file:
            text = file.read()
        assert "_interval: 15s" in text
        with open(config, "w") as file:
            file.write(text.replace("_interval: 15s", "_interval: 1s"))
        self.start(
            "prometheus",
            [
                "prometheus",
                f"--config.file={config}",
                f"--storage.tsdb.path={self.directory}/tsdb",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
        )
        url = f"http://127.0.0.1:{port}"
        until("Prometheus is ready", lambda: call("GET", url + "/-/ready")[0] == 200)
        return url

    def stop(self):
        for child in self.children:
            child.send_signal(signal.SIGTERM)
        for child in self.children:
            child.wait(timeout=40)
        self.sql(f"drop database if exists {self.database} with (force)")


def donor(replicas, campaign, number):
    url = replicas[number % len(replicas)]
    body = {
        "campaign_id": campaign["id"],
        "amount_minor": 1000 + number,
        "currency": "EUR",
        "donor": {"name": "Jo Doe", "email": f"jo{number}@example.org"},
    }
    status, donation = call("POST", url + "/api/v1/donations", body)
    assert status == 201, donation
    intent = donation["payment"]["intent_id"]
    card = CARDS[number % len(CARDS)]
    path = f"/sandbox/stripe/v1/payment_intents/{intent}/confirm"
    call("POST", replicas[0] + path, form={"payment_method": card}, token=SANDBOX_KEY)
    call("GET", f"{url}/api/v1/campaigns/{campaign['id']}/totals")
    if card == "pm_card_visa" and number % 4 == 0:
        path = f"{url}/api/v1/donations/{donation['id']}?after_version=3&wait=5"
        call("GET", path, token=donation["access_token"])
        refund = f"{url}/api/v1/payments/{donation['payment']['id']}/refunds"
        call("POST", refund, {"amount_minor": 100}, token=ADMIN_KEY)


def load(replicas):
    body = {"slug": "dashboards", "title": "Dashboards", "currency": "EUR", "goal_minor": 1_000_000}
    status, campaign = call("POST", replicas[0] + "/api/v1/campaigns", body, token=ADMIN_KEY)
    assert status == 201, campaign
    end, number = time.monotonic() + LOAD_S, 0
    with ThreadPoolExecutor(8) as pool:
        while time.monotonic() < end:
            list(pool.map(lambda it: donor(replicas, campaign, it), range(number, number + 16)))
            number += 16
            call("POST", replicas[1] + "/webhooks/stripe", {"no": "signature"})
            call("GET", replicas[1] + "/health/ready")
    return number


def panels():
    for path in sorted(glob.glob("deploy/grafana/dashboards/*.json")):
        with open(path) as file:
            dashboard = json.load(file)
        for panel in dashboard["panels"]:
            for target in panel.get("targets", []):
                yield dashboard["title"], panel["title"], target


def ask(prometheus, query):
    query = query.replace("$__rate_interval", RATE_INTERVAL)
    status, answer = call("GET", prometheus + "/api/v1/query?" + urllib.parse.urlencode({"query": query}))
    assert status == 200 and answer["status"] == "success", answer
    return answer["data"]["result"]


def shown(result, legend):
    words = []
    for series in sorted(result, key=lambda it: json.dumps(it["metric"], sort_keys=True)):
        name = legend
        for label, value in series["metric"].items():
            name = name.replace("{{" + label + "}}", value)
        words.append(f"{name} {float(series['value'][1]):.4g}".strip())
    rest = len(words) - 4
    return "; ".join(words[:4]) + (f"; and {rest} more" if rest > 0 else "")


def main():
    empty = 0
    with tempfile.TemporaryDirectory() as directory:
        run = Run(sys.argv[1], directory)
        run.sql(f"create database {run.database}")
        try:
            first = run.replica(1, {})
            sandbox = {"STRIPE_SECRET_KEY": SANDBOX_KEY, "STRIPE_WEBHOOK_SECRET": "whsec_sandbox"}
            second = run.replica(2, {**sandbox, "STRIPE_API_BASE": first + "/sandbox/stripe"})
            replicas = [first, second]
            prometheus = run.prometheus(replicas)
            time.sleep(2)  # a rate needs a zero before the first of a kind
            donations = load(replicas)
            print(f"{donations} donations in {LOAD_S} s, two replicas, scraped every second\n")
            print("| dashboard | panel | value |\n|---|---|---|")
            for dashboard, panel, target in panels():
                result = ask(prometheus, target["expr"])
                finite = [it for it in result if it["value"][1] not in ("NaN", "+Inf", "-Inf")]
                empty += not finite
                text = shown(finite, target["legendFormat"]) if finite else "EMPTY: " + target["expr"]
                print(f"| {dashboard.removeprefix('CareForAll: ')} | {panel} | {text} |")
            status, answer = call("GET", prometheus + "/api/v1/rules")
            sick = [rule for group in answer["data"]["groups"] for rule in group["rules"] if rule["health"] == "err"]
            assert status == 200 and not sick, sick
        finally:
            run.stop()
    if empty:
        raise SystemExit(f"{empty} queries returned nothing")


main()
