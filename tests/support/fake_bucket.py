"""A stand-in for Cloud Storage: as much of its JSON API as gcsfs and TensorStore use, over objects in memory.

    with serve() as bucket:
        environment = os.environ | bucket.environment

Programs started with that environment read and write gs://... here. `bucket.objects` is {"BUCKET/NAME": bytes};
`bucket.refuse`, which POST /refuse sets and /allow resets, makes it answer 403 to every write; POST /lose/BUCKET/PREFIX
removes what lies there but the marks of completion.
"""

import base64
import contextlib
import email
import hashlib
import http.server
import json
import threading
import urllib.parse


class Bucket:
    def __init__(self):
        self.objects, self.generation, self.refuse = {}, {}, False
        self.lock, self.uploads, self.count = threading.RLock(), {}, 0

    def put(self, name, data):
        with self.lock:
            self.count += 1
            self.objects[name], self.generation[name] = data, self.count

    def describe(self, name):
        data = self.objects[name]
        bucket, _, key = name.partition("/")
        return {
            "kind": "storage#object",
            "bucket": bucket,
            "name": key,
            "size": str(len(data)),
            "generation": str(self.generation[name]),
            "metageneration": "1",
            "md5Hash": base64.b64encode(hashlib.md5(data).digest()).decode(),
            "updated": "2026-01-01T00:00:00.000Z",
            "timeCreated": "2026-01-01T00:00:00.000Z",
        }

    def listing(self, bucket, query):
        prefix, delimiter = query.get("prefix", ""), query.get("delimiter", "")
        items, prefixes = [], set()
        for name in sorted(self.objects):
            key = name.removeprefix(f"{bucket}/")
            if not name.startswith(f"{bucket}/") or not key.startswith(prefix) or key < query.get("startOffset", ""):
                continue
            if query.get("endOffset") and key >= query["endOffset"]:
                continue
            rest = key[len(prefix) :]
            if delimiter and delimiter in rest:
                prefixes.add(prefix + rest.split(delimiter)[0] + delimiter)
            else:
                items.append(self.describe(name))
        return {"kind": "storage#objects", "items": items, "prefixes": sorted(prefixes)}


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    bucket: Bucket
    extra: dict  # headers of the answer

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        if isinstance(body, dict):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"} | headers
        self.send_response(status)
        for name, value in (self.extra | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def body(self):
        if self.headers.get("Transfer-Encoding", "") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def handle_request(self):
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        # /upload/storage/v1/b/BUCKET/o/NAME; a name's slashes are quoted.
        parts = [urllib.parse.unquote(part) for part in url.path.strip("/").split("/")]
        body, self.extra = self.body(), {}
        with self.bucket.lock:
            if parts[0] in ("refuse", "allow"):
                self.bucket.refuse = parts[0] == "refuse"
                return self.answer(200)
            if parts[0] == "lose":
                prefix = url.path.removeprefix("/lose/")
                for name in [name for name in self.bucket.objects if name.startswith(prefix)]:
                    if not name.endswith("commit_success.txt"):
                        del self.bucket.objects[name]
                return self.answer(200)
            if parts[0] == "batch":
                return self.batch(body)
            if parts[0] in ("upload", "resumable"):
                return self.upload(parts, query, body)
            parts = parts[parts.index("b") + 1 :]
            self.answer(*self.call(self.command, parts, query))

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = handle_request

    def call(self, method, parts, query):
        """The answer (status, body) to what names a bucket and perhaps an object."""
        store, bucket = self.bucket, parts[0]
        if len(parts) == 1:
            return 200, {"kind": "storage#bucket", "name": bucket, "location": "HERE"}
        if len(parts) == 2:
            return 200, store.listing(bucket, query)
        name = f"{bucket}/{parts[2]}"
        if name not in store.objects:
            return 404, {"error": {"code": 404, "message": "Not Found"}}
        if parts[3:4] == ["moveTo"]:
            target = f"{bucket}/{parts[5]}"
            store.put(target, store.objects.pop(name))
            return 200, store.describe(target)
        if parts[3:4] == ["rewriteTo"]:
            target = f"{parts[5]}/{parts[7]}"
            store.put(target, store.objects[name])
            return 200, {"done": True, "resource": store.describe(target)}
        if method == "DELETE":
            del store.objects[name]
            return 204, b""
        if query.get("alt") != "media":
            return 200, store.describe(name)
        data, status = store.objects[name], 200
        self.extra = {"x-goog-generation": str(store.generation[name]), "x-goog-stored-content-length": str(len(data))}
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            if not first:
                first, last = max(0, len(data) - int(last)), ""
            if int(first) >= len(data):
                return 416, b""
            part = data[int(first) : int(last) + 1 if last else None]
            self.extra |= {"Content-Range": f"bytes {first}-{int(first) + len(part) - 1}/{len(data)}"}
            data, status = part, 206
        return status, data

    def upload(self, parts, query, body):
        store = self.bucket
        if store.refuse:
            return self.answer(403, {"error": {"code": 403, "message": "the bucket is lost"}})
        if parts[0] == "resumable":
            name, held = store.uploads[parts[1]]
            asked = self.headers.get("Content-Range", "bytes 0-/0")
            held = held + body
            total = asked.rpartition("/")[2]
            if total == "*" or int(total) > len(held):
                store.uploads[parts[1]] = (name, held)
                return self.answer(308, b"", Range=f"bytes=0-{len(held) - 1}")
        else:
            bucket, kind = parts[parts.index("b") + 1], query["uploadType"]
            if kind == "multipart":
                head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
                facts, content = email.message_from_bytes(head + body).get_payload()
                key, held = json.loads(facts.get_payload())["name"], content.get_payload(decode=True)
                held = _raw_part(body, self.headers["Content-Type"])
            else:
                key, held = query["name"], body
            name = f"{bucket}/{key}"
            if kind == "resumable":
                number = str(len(store.uploads))
                store.uploads[number] = (name, b"")
                place = f"http://{self.headers['Host']}/resumable/{number}"
                return self.answer(200, {}, Location=place)
        expected = query.get("ifGenerationMatch")
        if expected is not None and int(expected) != store.generation.get(name if name in store.objects else "", 0):
            return self.answer(412, {"error": {"code": 412, "message": "another generation"}})
        store.put(name, held)
        return self.answer(200, store.describe(name))

    def batch(self, body):
        """Deletions, each a small request within the body."""
        mark = self.headers["Content-Type"].partition("boundary=")[2].strip('"')
        answers = []
        for part in body.decode().split(f"--{mark}"):
            lines = [line for line in part.splitlines() if line.startswith("DELETE ")]
            if not lines:
                continue
            path = urllib.parse.urlsplit(lines[0].split()[1]).path.strip("/").split("/")
            path = [urllib.parse.unquote(piece) for piece in path]
            status, _ = self.call("DELETE", path[path.index("b") + 1 :], {})
            answers.append(f"--answer\r\nContent-Type: application/http\r\n\r\nHTTP/1.1 {status} OK\r\n\r\n\r\n")
        text = ("".join(answers) + "--answer--\r\n").encode()
        self.answer(200, text, Content_Type="multipart/mixed; boundary=answer")


def _raw_part(body, content_type):
    """The last part of a multipart body as it is: the email package would change its line ends."""
    mark = content_type.partition("boundary=")[2].strip("\"'").encode()
    part = body.split(b"--" + mark)[2]
    return part.partition(b"\r\n\r\n" if b"\r\n\r\n" in part else b"\n\n")[2].removesuffix(b"\r\n").removesuffix(b"\n")


@contextlib.contextmanager
def serve():
    """A context that serves a bucket; its `environment` redirects gs:// to it."""
    bucket = Bucket()
    handler = type("Handler", (_Handler,), {"bucket": bucket})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads, server.handle_error = True, lambda *_: None  # clients may hang up early
        url = f"http://127.0.0.1:{server.server_address[1]}"
        bucket.environment = {
            "STORAGE_EMULATOR_HOST": url,
            "TENSORSTORE_GCS_HTTP_URL": url,
            "FSSPEC_GCS_TOKEN": "anon",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # would ask Google for the kind of bucket
            "NO_GCE_CHECK": "true",
        }
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield bucket
        server.shutdown()
