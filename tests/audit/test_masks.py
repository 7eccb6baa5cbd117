"""No credential of a command line comes into its summary, and what is none stays."""

import time

import pytest

from hermes_nodes.audit import summarise_command
from hermes_nodes.audit.masks import mask

# Put together here, so that nobody's scanner takes them for real ones.
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
GITHUB = "ghp_" + "16C7e42F292c6912E7710c838347Ae178B4a"
FINE = "github_pat_" + "11ABCDEFG0aBcDeFgHiJkL_mNoPqRsTuVwXyZ0123456789"
GITLAB = "glpat-" + "ABCdef123456_-ghiJKL"
SLACK = "xoxb-" + "123456789012-1234567890123-AbCdEfGhIjKl"
OPENAI = "sk-proj-" + "Ab12Cd34Ef56Gh78Ij90Kl12"
ANTHROPIC = "sk-ant-" + "api03-AbCdEf123456789-xyz_ABC"
JWT = "eyJhbGciOiJIUzI1NiJ9." + "eyJzdWIiOiIxMjM0In0.dBjftJeZ4CVPmB92K27uhbUJU1p1r"
OURS = "hnt_" + "aB3_dE6-gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6kL9n"
OPERATORS = "hno_" + "aB3_dE6-gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6kL9n"
STRIPE = "sk_live_" + "4eC39HqLyjWDarjtT1zdp7dc"
PEM = "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk\nAAAA\n-----END OPENSSH PRIVATE KEY-----"

MASKED = [
    # options
    ("app --password hunter2 run", "app --password *** run"),
    ("app --password=hunter2 run", "app --password=*** run"),
    ("app --db-password 'two words' run", "app --db-password *** run"),
    ('app --api-key="k e y" run', "app --api-key=*** run"),
    ("app -password hunter2", "app -password ***"),
    ("gpg --batch --passphrase hunter2 -d f.gpg", "gpg --batch --passphrase *** -d f.gpg"),
    ("wget --user=ada --password=hunter2 http://h/f", "wget --user=ada --password=*** http://h/f"),
    ("kubectl --token abc123 get pods", "kubectl --token *** get pods"),
    ("kubectl create secret generic db --from-literal=password=hunter2",
     "kubectl create secret generic db --from-literal=password=***"),
    ("vault write auth/x secret_id=hunter2", "vault write auth/x secret_id=hunter2"),
    ("helm upgrade --set auth.rootPassword=hunter2 db .", "helm upgrade --set auth.rootPassword=*** db ."),
    ("terraform apply -var db_password=hunter2", "terraform apply -var db_password=***"),
    ("app --clientSecret hunter2", "app --clientSecret ***"),
    ("app --auth-token=abc; echo done", "app --auth-token=***; echo done"),
    ("npm publish --//registry.npmjs.org/:_authToken=abc",
     "npm publish --//registry.npmjs.org/:_authToken=***"),
    # variables
    ("PASSWORD=hunter2 ./run", "PASSWORD=*** ./run"),
    ("export GITHUB_TOKEN=abcdef; make", "export GITHUB_TOKEN=***; make"),
    ("PGPASSWORD='hunter2' psql -h db", "PGPASSWORD=*** psql -h db"),
    ("DB_PASS=\"hun ter2\" ./run --fast", "DB_PASS=*** ./run --fast"),
    ("env AWS_SECRET_ACCESS_KEY=wJalrXUtnFEMI/K7MDENG aws s3 ls",
     "env AWS_SECRET_ACCESS_KEY=*** aws s3 ls"),
    ("docker run -e MYSQL_ROOT_PASSWORD=hunter2 -p 80:80 mysql",
     "docker run -e MYSQL_ROOT_PASSWORD=*** -p 80:80 mysql"),
    ("docker run -e 'API_KEY=a b' app", "docker run -e 'API_KEY=***' app"),
    ("sudo -u app SECRET_KEY=x python manage.py", "sudo -u app SECRET_KEY=*** python manage.py"),
    ("set -x; apiToken=abc; go", "set -x; apiToken=***; go"),
    # tools
    ("mysql -u root -phunter2 db", "mysql -u root -p*** db"),
    ("/usr/bin/mysqldump -phunter2 --all-databases | gzip",
     "/usr/bin/mysqldump -p*** --all-databases | gzip"),
    ("mysql -u root -p'hunter 2' -e 'select 1'", "mysql -u root -p*** -e 'select 1'"),
    ("sshpass -p hunter2 ssh host uptime", "sshpass -p *** ssh host uptime"),
    ("sshpass -phunter2 ssh host", "sshpass -p*** ssh host"),
    ("curl -u ada:hunter2 https://h/x", "curl -u ada:*** https://h/x"),
    ("curl -uada:hunter2 https://h/x", "curl -uada:*** https://h/x"),
    ("curl -su 'ada:hun ter2' https://h/x", "curl -su 'ada:***' https://h/x"),
    ("curl --user=ada:hunter2 https://h", "curl --user=ada:*** https://h"),
    ("redis-cli -h db -a hunter2 PING", "redis-cli -h db -a *** PING"),
    ("ldapsearch -x -D cn=admin -w hunter2 -b dc=x", "ldapsearch -x -D cn=admin -w *** -b dc=x"),
    ("docker login -u ada -p hunter2 registry", "docker login -u ada -p *** registry"),
    ("zip -r -P hunter2 out.zip dir", "zip -r -P *** out.zip dir"),
    ("7z x -phunter2 f.7z", "7z x -p*** f.7z"),
    ("openssl rsa -in k -passin pass:hunter2", "openssl rsa -in k -passin pass:***"),
    ("smbclient //h/s -U ada%hunter2", "smbclient //h/s -U ada%***"),
    ("lftp -u ada,hunter2 h", "lftp -u ada,*** h"),
    ("echo hunter2 | sudo -S id", "echo *** | sudo -S id"),
    ("echo 'root:hunter2' | chpasswd", "echo *** | chpasswd"),
    ("printf %s hunter2 | docker login --password-stdin -u a",
     "printf *** *** | docker login --password-stdin -u a"),
    ("aws configure set aws_secret_access_key wJalr", "aws configure set aws_secret_access_key ***"),
    ("npm config set //r.example/:_authToken abc", "npm config set //r.example/:_authToken ***"),
    # headers, JSON, URLs
    ("curl -H 'Authorization: Bearer abc.def' h", "curl -H 'Authorization: Bearer ***' h"),
    ('curl -H "Authorization: Basic YWRhOmh1" h', 'curl -H "Authorization: Basic ***" h'),
    ("curl -H 'X-Api-Key: abc' h", "curl -H 'X-Api-Key: ***' h"),
    ("curl -H 'PRIVATE-TOKEN: abc' h", "curl -H 'PRIVATE-TOKEN: ***' h"),
    ("curl -H 'Cookie: a=b; c=d' h", "curl -H 'Cookie: ***' h"),
    ("curl -d '{\"user\":\"ada\",\"password\":\"hunter2\"}' h",
     "curl -d '{\"user\":\"ada\",\"password\":***}' h"),
    ('curl -d "{\\"token\\": \\"abc\\"}" h', 'curl -d "{\\"token\\": ***}" h'),
    ("curl -d 'user=ada&password=hunter2' h", "curl -d 'user=ada&password=***' h"),
    ("git clone https://ada:hunter2@git.example/x.git", "git clone https://ada:***@git.example/x.git"),
    ("psql postgres://app:hunter2@db:5432/app -c 'select 1'",
     "psql postgres://app:***@db:5432/app -c 'select 1'"),
    ("pip install -i https://__token__:abc@pypi.example/simple x",
     "pip install -i https://__token__:***@pypi.example/simple x"),
    ("git push https://0123456789abcdef0123456789@github.com/x", "git push https://***@github.com/x"),
    ("printf 'password: hunter2\\n' > c.yml", "printf 'password: ***' > c.yml"),
    # shapes
    (f"aws configure set x {AWS}", "aws configure set x ***"),
    (f"git remote add o {GITHUB}", "git remote add o ***"),
    (f"echo {FINE} {GITLAB}", "echo *** ***"),
    (f"notify {SLACK} hello", "notify *** hello"),
    (f"ask {OPENAI} {ANTHROPIC}", "ask *** ***"),
    (f"call '{JWT}'", "call '***'"),
    (f"hermes-nodes node join --token {OURS}", "hermes-nodes node join --token ***"),
    (f"echo {OURS} {OPERATORS} > f", "echo *** *** > f"),
    (f"stripe listen {STRIPE}", "stripe listen ***"),
    (f"cat > k <<EOF\n{PEM}\nEOF", "cat > k <<EOF\n-----BEGIN OPENSSH PRIVATE KEY-----***\nEOF"),
    # commands in quotes
    ("bash -c 'mysql -phunter2 db'", "bash -c 'mysql -p*** db'"),
    ("ssh h \"PASSWORD=hunter2 ./run\"", "ssh h \"PASSWORD=***\""),
    ("su - app -c \"sh -c 'TOKEN=abc ./run'\"", "su - app -c \"sh -c 'TOKEN=***'\""),
]  # fmt: skip

UNTOUCHED = [
    "uname -a; ls -d /srv | wc -l",
    "git log --author='Ada Lovelace' --oneline -n 5",
    "docker run -p 8080:80 --name web nginx",
    "mysql -u root -p db",
    "cd $PWD && PWD=/tmp OLDPWD=/x make",
    "app --password-file /run/secret --token-file=/run/t",
    "docker login --password-stdin -u ada registry",
    "kubectl get secret db -o yaml",
    "kubeadm token create --print-join-command",
    "grep -rn 'password:' /etc/app",
    "curl -s http://localhost:4873/@scope/pkg",
    "curl -o out.tgz https://example.com:8443/a@b",
    "ssh-keygen -t ed25519 -f key -C 'ada@example.com'",
    "BYPASS=1 COMPASS=north make test",
    "llm --max-tokens 100 --model m",
    "SSH_AUTH_SOCK=/tmp/a ssh-add -l",
    "pip install scikit-learn sk-learn-contrib-tools",
    "find . -name '*.key' -path ./x",
    "tar czf - . | ssh host 'tar xzf - -C /srv'",
    "git clone git@github.com:org/repo.git",
    "rsync -a --passive src/ host:dst/",
    "systemctl show -p MainPID nginx",
    "openssl x509 -in cert.pem -noout -enddate",
    "awk -F: '{print $1}' /etc/passwd",
    "vault write auth/x secret_id=hunter2",
    "echo 'it''s' \"a \\\" b\" && sleep 1 & wait",
    'for f in *; do echo "$f"; done',
    "zip -r out.zip dir",
    "ps aux | grep -v pass",
    "task-runner --disk-abcdefghijklmnopqrst0123 x",
    "passwd -l bob",
    "",
    "'",
    "\\",
]


@pytest.mark.parametrize(("line", "masked"), MASKED)
def test_a_credential_is_masked_and_the_rest_stays(line: str, masked: str) -> None:
    assert mask(line) == masked


@pytest.mark.parametrize("line", UNTOUCHED)
def test_what_is_no_credential_stays(line: str) -> None:
    assert mask(line) == line


@pytest.mark.parametrize(
    ("argv", "masked"),
    [
        (["mysql", "-u", "root", "-phunter2"], "mysql -u root -p***"),
        (["env", "PASSWORD=two words", "run"], "env 'PASSWORD=***' run"),
        (["app", "--password", "it's a secret", "run"], "app --password *** run"),
        (["curl", "-H", "Authorization: Bearer abc", "h"], "curl -H 'Authorization: Bearer ***' h"),
        (["sh", "-c", "curl -u ada:hunter2 h"], "sh -c 'curl -u ada:*** h'"),
        (["printf", "%s", PEM], "printf %s '-----BEGIN OPENSSH PRIVATE KEY-----***'"),
    ],
)
def test_a_list_of_words_is_masked_alike(argv: list[str], masked: str) -> None:
    assert summarise_command(argv, "summary") == masked
    assert "hunter2" in str(argv) or summarise_command(argv, "full") != masked


def test_a_secret_across_the_cut_shows_no_part_of_itself() -> None:
    for filler in range(150, 205):
        line = "x" * filler + f" --password {'s3cret' * 2000} {GITHUB}"
        assert "s3cret" not in (summarise_command(line, "summary") or "")
        line = "x" * filler + f" {JWT}{'A' * 10_000}"
        assert "eyJ" not in (summarise_command(line, "summary") or "")


@pytest.mark.parametrize(
    "piece",
    ["a", "=", "-", "'", '"', "\\", " ", "--password ", "x=", "://", "://a:", "sk-", "eyJ",
     "Bearer ", '{"a":"', "-----BEGIN PRIVATE KEY-----", "a'b\"", "mysql -p", "password:", "aB",
     "ghp_a", "\n", "|", "echo x|", "_."],
)  # fmt: skip
def test_half_a_megabyte_of_anything_takes_no_time(piece: str) -> None:
    line = (piece * 500_000)[:500_000]
    started = time.process_time()
    summarise_command(line, "summary")
    assert time.process_time() - started < 0.2
