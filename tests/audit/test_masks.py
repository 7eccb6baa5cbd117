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
WEBHOOK = "whsec_" + "4eC39HqLyjWDarjtT1zdp7dc"
GOOGLE = "AIza" + "SyA1bC2dE3fG4hI5jK6lM7nO8pQ9rS0tUvW"
OAUTH = "GOCSPX-" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7"
NPM = "npm_" + "aB3dE6gH9jK2mN5pQ8sT1vW4yZ7bC0eF3hI6"
PYPI = "pypi-" + "AgEIcHlwaS5vcmcCJDNkNzE4ZjE0"
RUNNER = "glsoat-" + "ABCdef123456_-ghiJKL"
CHAT = "https://hooks.slack.com/services/" + "T000/B000/XXXXXXXXXXXX"
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
    (f"stripe listen {WEBHOOK} {GOOGLE} {OAUTH}", "stripe listen *** *** ***"),
    (f"publish {NPM} {PYPI} {RUNNER}", "publish *** *** ***"),
    (f"notify {CHAT} hello", "notify https://hooks.slack.com/services/*** hello"),
    # commands in quotes
    ("bash -c 'mysql -phunter2 db'", "bash -c 'mysql -p*** db'"),
    ("ssh h \"PASSWORD=hunter2 ./run\"", "ssh h \"PASSWORD=***\""),
    ("su - app -c \"sh -c 'TOKEN=abc ./run'\"", "su - app -c \"sh -c 'TOKEN=***'\""),
    ("bash -c \"DBPASS=hunter2 run\"", "bash -c \"DBPASS=***\""),
    ("ssh h \"echo hunter2 | sudo -S id\"", "ssh h \"echo *** | sudo -S id\""),
    # variables
    ("DBPASS=hunter2 run", "DBPASS=*** run"),
    ("PASSWORD+=hunter2 run", "PASSWORD+=*** run"),
    ("set -gx TOKEN hunter2; run", "set -gx TOKEN ***; run"),
    ("set -x -g TOKEN hunter2", "set -x -g TOKEN ***"),
    ("setenv API_TOKEN hunter2", "setenv API_TOKEN ***"),
    ("git config --global user.password hunter2", "git config --global user.password ***"),
    ("docker run --env=TOKEN=hunter2 x", "docker run --env=TOKEN=*** x"),
    ("docker run -eDBPASS=hunter2 x", "docker run -eDBPASS=*** x"),
    ("docker run \"-eTOKEN=hun ter2\" x", "docker run \"-eTOKEN=***\" x"),
    # tools
    ("sudo -H mysql -phunter2", "sudo -H mysql -p***"),
    ("mysql > out -phunter2 db", "mysql > out -p*** db"),
    ("openssl rsa -passin 'pass:hun ter2' -in k", "openssl rsa -passin 'pass:***' -in k"),
    ("ssh-keygen -N hunter2 -f k", "ssh-keygen -N *** -f k"),
    ("keytool -storepass hunter2", "keytool -storepass ***"),
    ("kubectl create secret generic s --from-literal=k=hunter2",
     "kubectl create secret generic s --from-literal=k=***"),
    ("nmcli dev wifi connect x password hunter2", "nmcli dev wifi connect x password ***"),
    ("fetch --user=ada:hunter2 h", "fetch --user=ada:*** h"),
    # headers
    ("curl --header=X-Auth-Token:hunter2 h", "curl --header=X-Auth-Token:*** h"),
    ("curl --header X-Auth-Token:hunter2 h", "curl --header X-Auth-Token:*** h"),
    ("wget --header=\"X-Auth-Token: hunter2\" h", "wget --header=\"X-Auth-Token: ***\" h"),
    ("curl -HX-Api-Key:hunter2 h", "curl -HX-Api-Key:*** h"),
    ("curl -sH'X-Api-Key: hunter2' h", "curl -sH'X-Api-Key: ***' h"),
    ("curl '-HX-Api-Key: hunter2' h", "curl '-HX-Api-Key: ***' h"),
    ("curl -H Authorization:\\ Bearer\\ hunter2 h", "curl -H Authorization:*** h"),
    ("http GET h X-Auth-Token:hunter2", "http GET h X-Auth-Token:***"),
    ("git -c http.extraheader=\"Authorization: Basic aHU=\" pull",
     "git -c http.extraheader=\"Authorization: Basic ***\" pull"),
    # JSON, YAML, URLs
    ("curl -d '{\"password\": 12345, \"x\": 1}' h", "curl -d '{\"password\": ***, \"x\": 1}' h"),
    ("curl -d '{\"password\":[\"hunter2\"]}' h", "curl -d '{\"password\":***}' h"),
    ("echo password:hunter2 > f", "echo password:*** > f"),
    ("printf 'user: a\\npassword: hunter2' > f", "printf 'user: a\\npassword: ***' > f"),
    ("echo 'db: {password: hunter2 }' > f", "echo 'db: {password: *** }' > f"),
    ("curl 'https://h/f?a=1&sig=hunter2&b=2'", "curl 'https://h/f?a=1&sig=***&b=2'"),
    # what a password is piped into
    ("sudo -S <<<hunter2 id", "sudo -S <<<*** id"),
    ("sudo -kS id <<< 'hunter2'", "sudo -kS id <<< ***"),
    ("<<< hunter2 sudo -S id", "<<< *** sudo -S id"),
    ("chpasswd <<< root:hunter2", "chpasswd <<< ***"),
    ("sudo /usr/sbin/chpasswd <<<\"root:hunter2\"", "sudo /usr/sbin/chpasswd <<<***"),
    ("chpasswd <<EOF\nroot:hunter2\nada:hunter3\nEOF\nid", "chpasswd <<EOF\n***\n***\nEOF\nid"),
    ("echo hunter2 | sudo --stdin id", "echo *** | sudo --stdin id"),
    ("echo -n hunter2 | podman login --password-stdin", "echo -n *** | podman login --password-stdin"),
    ("gh auth login --with-token <<< hunter2", "gh auth login --with-token <<< ***"),
    ("gpg --passphrase-fd 0 -d f <<< hunter2", "gpg --passphrase-fd 0 -d f <<< ***"),
    ("echo -e 'a\\na' | passwd root", "echo -e *** | passwd root"),
    ("(echo hunter2; echo hunter2) | smbpasswd -s ada", "(echo ***; echo ***) | smbpasswd -s ada"),
    ("{ echo a; echo a; } | passwd root", "{ echo ***; echo ***; } | passwd root"),
    ("echo hunter2 | (sudo -S id)", "echo *** | (sudo -S id)"),
    ("read -r PASSWORD <<< hunter2", "read -r PASSWORD <<< ***"),
    ("echo hunter2 | cryptsetup open d x -", "echo *** | cryptsetup open d x -"),
    # SQL
    ("psql -c \"ALTER USER app WITH PASSWORD 'hunter2'\"",
     "psql -c \"ALTER USER app WITH PASSWORD '***'\""),
    ("psql -c \"create role a password E'hunter2' login\"",
     "psql -c \"create role a password E'***' login\""),
    ("mysql -e \"CREATE USER 'a'@'%' IDENTIFIED BY 'hunter2'\"",
     "mysql -e \"CREATE USER 'a'@'%' IDENTIFIED BY '***'\""),
    ("mysql -e \"ALTER USER a IDENTIFIED WITH x BY 'hunter2'\"",
     "mysql -e \"ALTER USER a IDENTIFIED WITH x BY '***'\""),
    ("mysql -e \"SET PASSWORD FOR 'a'@'h' = 'hunter2'\"", "mysql -e \"SET PASSWORD FOR 'a'@'h' = '***'\""),
    ("mysql -e \"SET PASSWORD = PASSWORD('hunter2')\"", "mysql -e \"SET PASSWORD = PASSWORD('***')\""),
    ("sqlplus @f 'alter user a identified by hunter2'", "sqlplus @f 'alter user a identified by ***'"),
    ("sqlcmd -Q \"ALTER LOGIN sa WITH PASSWORD = N'hunter2'\"",
     "sqlcmd -Q \"ALTER LOGIN sa WITH PASSWORD = N'***'\""),
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
    "ls -p && mkdir -p x",
    "ps -u root; sort -u a:b",
    "ssh -p 22 host",
    'git commit -m "fix password reset"',
    "git log --grep \"password 'reset'\"",
    "cp -u a:b c",
    "docker exec --user=1000:1000 web id",
    "keyboard=us monkey=1 bypass=1 compass=n run",
    "MAX_TOKENS=100 KEY=1 PUBLIC_KEY=x run",
    "ffmpeg -i a -af highpass=f=200 b",
    "echo 'ada ALL=(ALL) NOPASSWD: ALL' | tee /etc/sudoers.d/ada",
    "echo 'ada:x:1000:1000' | tee -a /etc/passwd",
    "echo hello | sudo tee f",
    "wc -l <<< 'some text'; cat <<EOF\nhello\nEOF",
    "openssl enc -pass env:X -keyout f",
    "openssl enc -pass stdin",
    "curl --header=Accept:text/plain -H 'Accept: x' -HA:b h",
    "set -x; set -euo pipefail; fish -c 'set -x PATH /bin'",
    "docker pull org/secret:latest",
    "psql -c \"select 'x' from users where name = 'password'\"",
    "curl 'https://h/?page=2&monkey=3' -d '{\"token\": null}'",
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
        (
            ["psql", "-c", "ALTER USER a PASSWORD 'hunter2'"],
            """psql -c 'ALTER USER a PASSWORD '"'"'***'"'"''""",
        ),
        (["docker", "run", "-eTOKEN=two words"], "docker run '-eTOKEN=***'"),
        (["curl", "--header=X-Auth-Token: abc", "h"], "curl '--header=X-Auth-Token: ***' h"),
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


#: What, over and over, may be slow to look at.
PIECES = [
    "a", "=", "-", "'", '"', "\\", " ", "--password ", "x=", "://", "://a:", "sk-", "eyJ",
    "Bearer ", '{"a":"', "-----BEGIN PRIVATE KEY-----", "a'b\"", "mysql -p", "password:", "aB",
    "ghp_a", "\n", "|", "echo x|", "_.", "<<<", "<<a\n", "(echo x;", "{ echo x;", "su|", "-H", "-Ha:",
    "'-e=", 'a="', "identified by ", "alter user password ", "alter user identified with x ", "?sig=",
    "set token ", "set password for a", '{"token":[', "{token:", "--header=", "passwordpassword", "Aa",
    "chpasswd<<a\n", "bash -c 'sh -c \"", "x='",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
def test_a_megabyte_of_anything_takes_no_time(piece: str) -> None:
    line = "token " + (piece * 1024 * 1024)[: 1024 * 1024]  # the word, so that it is looked at
    started = time.process_time()
    summarise_command(line, "summary")
    assert time.process_time() - started < 0.2


@pytest.mark.parametrize("piece", PIECES)
def test_the_time_grows_with_the_line_and_not_with_its_square(
    piece: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The linear ones take a tenth of that at most; of a square there would be seconds."""
    monkeypatch.setattr("hermes_nodes.audit.masks._LOOKED_AT", 1024 * 1024)
    line = "token " + (piece * 65_536)[:65_536]
    started = time.process_time()
    mask(line)
    assert time.process_time() - started < 1.5
