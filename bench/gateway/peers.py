"""What the gateway is measured against: the mock upstream, nginx and LiteLLM's proxy, each as its makers advise."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from bench.rig import store
from bench.rig.load import Target
from bench.rig.processes import Rig, cores, free_port

LITELLM = "1.102.4"

NGINX_CONF = """\
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/nginx-error.log crit;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  upstream engine {{
    server 127.0.0.1:{upstream};
    keepalive 256;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port};
    location / {{
      proxy_pass http://engine;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""

# The key is a constant of this bench: it opens a proxy on the loopback that lives for some minutes.
LITELLM_KEY = "sk-bench-1234567890"


def start_mock(rig: Rig) -> Target:
    """The mock upstream, on the load core."""
    child = rig.start("mock", [store.native("mock"), "0"], core=cores()[1])
    child.wait_for(lambda: child.tail().strip().isdigit(), 5)
    return Target("direct", int(child.tail()), child)


def slow(target: Target) -> Target:
    """The same server, reached by the path on which the mock sends an event every 10 ms."""
    return Target(target.name, target.port, target.child, target.model, "/slow" + target.path, target.headers)


def nginx_version() -> str:
    """The version of the nginx found, or a complaint."""
    program = _nginx()
    said = subprocess.run([program, "-v"], capture_output=True, text=True, timeout=10).stderr
    found = re.search(r"nginx/([\d.]+)", said)
    return found.group(1) if found else "?"


def _nginx() -> str:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise store.Missing("no nginx: it is one of the peers (Debian, Ubuntu: apt install nginx-light)")
    return program


def start_nginx(rig: Rig, upstream: Target) -> Target:
    """nginx with one worker, proxying the mock over kept-alive connections."""
    port, folder = free_port(), rig.folder / "nginx"
    folder.mkdir()
    if os.geteuid() == 0:
        folder.chmod(0o755)
    conf = folder / "nginx.conf"
    text = NGINX_CONF.format(folder=folder, port=port, upstream=upstream.port)
    conf.write_text(("user root;\n" if os.geteuid() == 0 else "") + text)
    child = rig.start("nginx", [_nginx(), "-e", folder / "start.log", "-p", folder, "-c", conf], core=cores()[0])
    child.wait_for_http(port, "/v1/models", 10)
    return Target("nginx", port, child)


def install_litellm() -> Path:
    """The pinned LiteLLM proxy in an environment of its own; returns its command."""
    return store.environment(f"litellm-{LITELLM}", f"litellm[proxy]=={LITELLM}") / "litellm"


def start_litellm(rig: Rig, upstream: Target, wait: bool = True) -> Target:
    """LiteLLM's proxy: no database, master key, one worker, no retries, its own local price map."""
    port, config = free_port(), rig.folder / "litellm.json"
    base = f"http://127.0.0.1:{upstream.port}/v1"
    model = {"model": "openai/mock", "api_base": base, "api_key": "sk-mock"}
    settings = {  # JSON is YAML
        "model_list": [{"model_name": "mock", "litellm_params": model}],
        "litellm_settings": {"num_retries": 0},
        "router_settings": {"num_retries": 0},
        "general_settings": {"master_key": LITELLM_KEY},
    }
    config.write_text(json.dumps(settings))
    command = [install_litellm(), "--config", config, "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    env = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_TELEMETRY": "False",
        "LITELLM_MODE": "PRODUCTION",
    }
    child = rig.start("litellm", [*command, "--telemetry", "False"], core=cores()[0], env=env)
    target = Target("litellm", port, child, headers=(f"Authorization: Bearer {LITELLM_KEY}",))
    if wait:
        await_litellm(target)
    return target


def await_litellm(target: Target) -> None:
    """Returns when LiteLLM answers; it takes ten seconds or more to start."""
    target.child.wait_for_http(target.port, "/health/liveliness", 90)
