#!/bin/sh
# Makes a development CA and a server certificate signed by it, beside this script or in the folder given as first argument:
#
#   sh certs/make.sh [FOLDER [NAME...]]
#
# NAME: DNS names and addresses of the server; always with localhost, 127.0.0.1 and ::1. Overwrites nothing. Needs openssl 1.1.1 or later.
set -eu
umask 077

folder=${1:-$(dirname "$0")}
[ $# -eq 0 ] || shift
mkdir -p "$folder"
cd "$folder"

for file in ca.crt ca.key gateway.crt gateway.key; do
    if [ -e "$file" ]; then
        echo "make.sh: $folder/$file is there already; move it away first (whoever trusts the old CA has to trust the new one)" >&2
        exit 1
    fi
done

names="DNS:localhost,IP:127.0.0.1,IP:::1"
for name in "$@"; do
    case $name in
        *[!0-9A-Za-z.:_-]* | "") echo "make.sh: \`$name\` is no DNS name and no address" >&2; exit 2 ;;
        *:* | [0-9]*.[0-9]*.[0-9]*.[0-9]*) names="$names,IP:$name" ;;
        *) names="$names,DNS:$name" ;;
    esac
done

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM

key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

key "$work/ca.key"
cat > "$work/ca.cnf" <<EOF
[req]
distinguished_name = name
x509_extensions = ca
prompt = no
[name]
CN = Comfygate development CA
[ca]
basicConstraints = critical, CA:true, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
EOF
openssl req -x509 -new -key "$work/ca.key" -days 3650 -sha256 -config "$work/ca.cnf" -out "$work/ca.crt"

key "$work/gateway.key"
cat > "$work/gateway.cnf" <<EOF
basicConstraints = critical, CA:false
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth
subjectAltName = $names
authorityKeyIdentifier = keyid
EOF
openssl req -new -key "$work/gateway.key" -subj "/CN=Comfygate development" -out "$work/gateway.csr"
# 397 days: clients refuse leaves of more than 398.
openssl x509 -req -in "$work/gateway.csr" -CA "$work/ca.crt" -CAkey "$work/ca.key" -set_serial "0x$(openssl rand -hex 16)" \
    -days 397 -sha256 -extfile "$work/gateway.cnf" -out "$work/leaf.crt" 2>/dev/null
cat "$work/leaf.crt" "$work/ca.crt" > "$work/gateway.crt"

openssl verify -CAfile "$work/ca.crt" "$work/leaf.crt" >/dev/null
chmod 600 "$work/ca.key" "$work/gateway.key"
chmod 644 "$work/ca.crt" "$work/gateway.crt"
mv "$work/ca.crt" "$work/ca.key" "$work/gateway.crt" "$work/gateway.key" .
echo "made ca.crt, ca.key, gateway.crt and gateway.key in $folder for $names"
