# Which of the variables that the sandbox sets is enough for a client, and does it need one at all?
# Prints for each `CLIENT VARIABLE: with WORD, without WORD`, where a word is `yes` or `no`: with
# that variable alone, and with none.
# The variables name the files: $CLASSES, $GO, $DENO, $BUN, $FETCH; $1 is the origin.
origin=$1
host=${origin#https://}
variables=$(env | sed -n 's,^\([A-Za-z_]*\)=/run/sandbox-trust/.*,\1,p
    s,^\(JAVA_TOOL_OPTIONS\)=.*,\1,p')

# What the machine's owner has set up for the package managers is not the subject.
export PIP_CONFIG_FILE=/dev/null npm_config_globalconfig=/dev/null npm_config_update_notifier=false

# Runs a command without those variables but the first argument.
only() {
  kept=$1 dropped=
  shift
  for variable in $variables; do
    [ "$variable" = "$kept" ] || dropped="$dropped --unset=$variable"
  done
  if env $dropped "$@" >output 2>&1; then echo yes; else echo no; fi
}

try() {
  client=$1 variable=$2
  shift 2
  echo "$client $variable: with $(only "$variable" "$@"), without $(only - "$@")"
}

python() {
  client=$1 variable=$2 program=$3
  try "$client" "$variable" /usr/bin/python3 -c "origin, host = '$origin', '$host'
$program"
}

try curl CURL_CA_BUNDLE curl -sS "$origin/v1/curl"
try wget - wget -q -O - "$origin/v1/wget"
try openssl SSL_CERT_FILE \
  sh -c "openssl s_client -verify_return_error -connect $host:443 </dev/null"
# Whatever becomes of the repository, which is none.
try git GIT_SSL_CAINFO sh -c "git ls-remote $origin/v1/git 2>&1 | grep -v certificate"
python urllib SSL_CERT_FILE 'import urllib.request; urllib.request.urlopen(origin + "/v1/urllib")'
python requests REQUESTS_CA_BUNDLE 'import requests; requests.get(origin + "/v1/requests")'
python httpx SSL_CERT_FILE 'import httpx; httpx.get(origin + "/v1/httpx")'
python aiohttp SSL_CERT_FILE '
import aiohttp, asyncio
async def main():
    async with aiohttp.ClientSession() as session, session.get(origin + "/v1/aiohttp"): pass
asyncio.run(main())'
python websockets SSL_CERT_FILE '
import asyncio, websockets
async def main():
    async with websockets.connect("wss://" + host + "/v1/lab/ws"): pass
asyncio.run(main())'
python openai SSL_CERT_FILE '
import openai; openai.OpenAI(base_url=origin + "/v1", api_key="own", max_retries=0).models.list()'
python anthropic SSL_CERT_FILE '
import anthropic; anthropic.Anthropic(base_url=origin, api_key="own", max_retries=0).models.list()'
python grpcio GRPC_DEFAULT_SSL_ROOTS_FILE_PATH '
import grpc
channel = grpc.secure_channel(host + ":443", grpc.ssl_channel_credentials())
grpc.channel_ready_future(channel).result(timeout=3)'
python pip PIP_CERT '
import subprocess, sys
pip = [sys.executable, "-m", "pip", "download", "--no-input", "--retries", "0",
       "--index-url", origin + "/v1/pip/", "demo"]
told = subprocess.run(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True).stdout
sys.exit("SSLError" in told or "SSL:" in told)'
try npm npm_config_cafile sh -c "npm view --fetch-retries 0 --registry $origin/v1/npm/ demo 2>&1 |
  grep -E 'CERT|ISSUER|certificate' && exit 1 || exit 0"
try node NODE_EXTRA_CA_CERTS node "$FETCH" "$origin"
try bun NODE_EXTRA_CA_CERTS "$BUN" run "$FETCH" "$origin"
try deno DENO_CERT "$DENO" run --no-config --allow-net --allow-env "$FETCH" "$origin"
try go SSL_CERT_FILE "$GO" "$origin"
try java JAVA_TOOL_OPTIONS java -cp "$CLASSES" Client new "$origin"
