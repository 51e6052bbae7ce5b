"""The part of the Hugging Face Hub's protocol that downloads and commits need, in this process."""
import base64
import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = '0123456789abcdef0123456789abcdef01234567'


class _Handler(BaseHTTPRequestHandler):

    def log_message(self, *arguments):
        pass

    def answer(self, status, content=b'', **headers):
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {'Content-Length': len(data), **headers}.items():
            self.send_header(name.replace('_', '-'), str(value))
        self.end_headers()
        if self.command != 'HEAD':
            self.wfile.write(data)

    def do_GET(self):
        self.server.requests.append(f'{self.command} {self.path}')
        parts = self.path.split('?')[0].strip('/').split('/')
        if parts[:2] == ['api', 'models'] and len(parts) >= 4:
            repo = '/'.join(parts[2:4])
            if repo not in self.server.repos:
                return self.answer(404, {}, X_Error_Code='RepoNotFound')
            names = self.server.repos[repo]
            if 'tree' in parts:
                return self.answer(200, [dict(type='file', path=n, size=len(d), oid='0')
                                         for n, d in names.items()])
            return self.answer(200, dict(id=repo, sha=COMMIT, private=False, tags=[], modelId=repo,
                                         downloads=0, likes=0,
                                         siblings=[dict(rfilename=n) for n in names]))
        repo, name = '/'.join(parts[:2]), '/'.join(parts[4:])
        if repo not in self.server.repos:
            return self.answer(404, X_Error_Code='RepoNotFound')
        if parts[3] not in ('main', COMMIT):
            return self.answer(404, X_Error_Code='RevisionNotFound')
        data = self.server.repos[repo].get(name)
        if data is None:
            return self.answer(404, X_Error_Code='EntryNotFound', X_Repo_Commit=COMMIT)
        self.answer(200, data, ETag=f'"{hashlib.sha1(data).hexdigest()}"', X_Repo_Commit=COMMIT)

    do_HEAD = do_GET

    def do_POST(self):
        self.server.requests.append(f'{self.command} {self.path}')
        body = self.rfile.read(int(self.headers['Content-Length']))
        if self.headers.get('Authorization') != 'Bearer hf_test':
            return self.answer(401, dict(error='Invalid username or password.'))
        if self.path == '/api/repos/create':
            asked = json.loads(body)
            repo = f'{asked["organization"]}/{asked["name"]}'
            status = 409 if repo in self.server.repos else 200
            self.server.repos.setdefault(repo, {})
            return self.answer(status, dict(url=f'{self.server.address}/{repo}', name=repo))
        if self.path == '/api/validate-yaml':  # the header of a README.md
            return self.answer(200, dict(errors=[], warnings=[]))
        repo = '/'.join(self.path.split('/')[3:5])
        if '/preupload/' in self.path:
            return self.answer(200, dict(files=[
                dict(path=f['path'], uploadMode='regular', shouldIgnore=False)
                for f in json.loads(body)['files']]))
        for line in map(json.loads, body.splitlines()):
            if line['key'] == 'file':
                self.server.repos[repo][line['value']['path']] = base64.b64decode(
                    line['value']['content'])
        self.answer(200, dict(commitUrl=f'{self.server.address}/{repo}/commit/{COMMIT}',
                              commitOid=COMMIT))


class FakeHub(ThreadingHTTPServer):
    """A hub with repositories in ``repos``, files by name; use it as a context.

    Attributes:
        address: Where it is.
        requests: What it was asked.
    """

    def __init__(self):
        super().__init__(('127.0.0.1', 0), _Handler)
        self.repos, self.requests = {}, []
        self.address = f'http://127.0.0.1:{self.server_port}'

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error):
        self.shutdown()
        self.server_close()
