"""A small server that speaks what TRL 1.16 asks of `vllm serve`: HTTP for generation and announcements, and a socket
beside it for the weights, which with vLLM travel over NCCL.

Real: TRL's client, trainer and weight iteration, every request over HTTP, the tensors over TCP, sampling by a copy of
the model that knows only the weights it was sent. Not real: vLLM itself, NCCL and CUDA. `stand_in` replaces, in TRL's
client, the two functions of vLLM that open the NCCL group and send through it, and the device that it insists on.
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Client, Listener
from types import SimpleNamespace

import safetensors.torch
import torch
from trl.generation import vllm_client, vllm_generation


class VLLMServer:
    """Samples from `model`; `weights` of each update, and the `requests` for completions, are kept.

    As vLLM's loader does, it refuses a parameter that the model does not have; also one that is not as announced.
    """

    def __init__(self, model):
        self.model, self.generator = model.requires_grad_(False).eval(), torch.Generator().manual_seed(0)
        self.requests, self.updates, self.groups, self.updating = [], [], 0, False
        self.connection = None
        self.routes = {
            "/health": lambda body: {},
            "/v1/models": lambda body: {"data": [{"id": "tiny"}]},
            "/server_info": lambda body: {
                "vllm_config": {
                    "weight_transfer_config": {"backend": "nccl"},
                    "model_config": {"logprobs_mode": "processed_logprobs"},
                }
            },
            "/get_world_size": lambda body: {"world_size": 1},
            "/init_weight_transfer_engine": self.join,
            "/start_weight_update": lambda body: self.update(True),
            "/update_weights": self.receive,
            "/finish_weight_update": lambda body: self.update(False),
            "/reset_prefix_cache": lambda body: {"success": True},
            "/v1/completions": self.complete,
        }
        routes = self.routes

        class Handler(BaseHTTPRequestHandler):
            def answer(self, body):
                try:
                    status, answer = 200, routes[self.path.partition("?")[0]](body)
                except (KeyError, ValueError) as error:
                    status, answer = 400, {"error": str(error)}
                content = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def do_GET(self):
                self.answer(None)

            def do_POST(self):
                self.answer(json.loads(self.rfile.read(int(self.headers["Content-Length"] or 0)) or "null"))

            def log_message(self, *arguments):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def __enter__(self):
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.http.shutdown()
        self.http.server_close()
        self.connection = None

    # -- weights ------------------------------------------------------------------------------------------------------
    def join(self, body):
        info = body["init_info"]
        if (info["rank_offset"], info["world_size"]) != (1, 2):
            raise ValueError(f"The trainer is rank 0 of 2, not as {info} says.")
        self.connection = connect(info)
        self.groups += 1
        return {}

    def update(self, started: bool):
        if started == self.updating:
            raise ValueError("Weight updates start once and finish once.")
        self.updating = started
        return {}

    def receive(self, body):
        if not self.updating:
            raise ValueError("No weight update was started.")
        info, parameters, received = body["update_info"], dict(self.model.named_parameters()), {}
        for name, dtype, shape in zip(info["names"], info["dtype_names"], info["shapes"], strict=True):
            ((sent, tensor),) = safetensors.torch.load(self.connection.recv_bytes()).items()
            if (sent, str(tensor.dtype), list(tensor.shape)) != (name, f"torch.{dtype}", shape):
                raise ValueError(f"{sent} {tensor.dtype} {tuple(tensor.shape)} came where {name} was announced.")
            received[name] = tensor
        if unknown := received.keys() - parameters.keys():
            raise KeyError(f"There is no parameter {', '.join(sorted(unknown))} in the model.")
        for name, tensor in received.items():
            parameters[name].copy_(tensor)
        self.updates.append(received)
        return {}

    # -- generation ---------------------------------------------------------------------------------------------------
    def complete(self, body):
        self.requests.append(body)
        plain = body["top_p"], body["top_k"], body["min_p"], body["repetition_penalty"], body["logprobs"]
        if plain != (1.0, 0, 0.0, 1.0, 0) or not (body["return_token_ids"] and body["return_tokens_as_token_ids"]):
            raise ValueError(f"This server samples from the whole distribution only, and was asked for {body}.")
        drawn = (
            self.draw(p, body["temperature"], body["max_tokens"]) for p in body["prompt"] for _ in range(body["n"])
        )
        prompts = [prompt for prompt in body["prompt"] for _ in range(body["n"])]
        return {
            "choices": [
                {
                    "prompt_token_ids": prompt,
                    "token_ids": tokens,
                    "logprobs": {
                        "tokens": [f"token_id:{token}" for token in tokens],
                        "token_logprobs": logprobs,
                        "top_logprobs": [{f"token_id:{token}": logprob} for token, logprob in zip(tokens, logprobs)],
                    },
                }
                for prompt, (tokens, logprobs) in zip(prompts, drawn, strict=True)
            ]
        }

    def draw(self, prompt: list[int], temperature: float, max_tokens: int) -> tuple[list[int], list[float]]:
        """One completion up to and with its end token, and the log-probabilities that it was drawn with."""
        tokens, logprobs = [], []
        while len(tokens) < max_tokens and self.model.config.eos_token_id not in tokens:
            logits = self.model(torch.tensor([prompt + tokens])).logits[0, -1]
            distribution = (logits / temperature).log_softmax(-1)
            tokens.append(int(torch.multinomial(distribution.exp(), 1, generator=self.generator)))
            logprobs.append(float(distribution[tokens[-1]]))
        return tokens, logprobs


# -- in place of vLLM's NCCL engine -----------------------------------------------------------------------------------
def connect(info) -> Client:
    """The server's side of the group; the trainer may not listen yet."""
    for _ in range(200):
        try:
            return Client((info["master_address"], info["master_port"]))
        except ConnectionRefusedError:
            threading.Event().wait(0.05)
    raise ValueError(f"Nobody listens on port {info['master_port']}.")


def listen(info) -> SimpleNamespace:
    """The trainer's side: as with NCCL's rendezvous, its port stays taken until the group is closed."""
    listener = Listener((info["master_address"], info["master_port"]))
    return SimpleNamespace(group=SimpleNamespace(socket=listener, store=listener.accept()))


def send(iterator, trainer_args) -> None:
    for name, tensor in iterator:
        trainer_args.group.group.store.send_bytes(safetensors.torch.save({name: tensor.contiguous()}))


def stand_in(monkeypatch) -> None:
    """TRL as it is where vLLM 0.25 is installed, with `listen` and `send` for the group of CUDA devices."""
    for module in (vllm_client, vllm_generation):
        monkeypatch.setattr(module, "is_vllm_available", lambda min_version=None: min_version is None)
    engine = SimpleNamespace(trainer_init=listen, trainer_send_weights=send)
    for name, value in {
        "get_ip": lambda: "127.0.0.1",
        "NCCLWeightTransferEngine": engine,
        "NCCLTrainerSendWeightsArgs": SimpleNamespace,
        "_HAS_STATEFUL_TRAINER_ENGINE": False,
        "_HAS_RESET_PREFIX_CACHE_SUCCESS": False,
    }.items():
        monkeypatch.setattr(vllm_client, name, value, raising=False)
    join = vllm_client.VLLMClient.init_communicator
    # a device without an index is never touched: no CUDA call is made
    monkeypatch.setattr(vllm_client.VLLMClient, "init_communicator", lambda client, device: join(client, "cuda"))
