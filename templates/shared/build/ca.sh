# Sourced by RUN instructions that use the network: makes package managers trust
# the additional CA of .kiln/ca.crt, if there is one, for this step only.
if [ -s /kiln-build/ca.crt ]; then
	cat /etc/ssl/certs/ca-certificates.crt /kiln-build/ca.crt >/tmp/kiln-ca.crt 2>/dev/null ||
		cat /kiln-build/ca.crt >/tmp/kiln-ca.crt
	export SSL_CERT_FILE=/tmp/kiln-ca.crt CURL_CA_BUNDLE=/tmp/kiln-ca.crt
	export REQUESTS_CA_BUNDLE=/tmp/kiln-ca.crt PIP_CERT=/tmp/kiln-ca.crt
	export NODE_EXTRA_CA_CERTS=/tmp/kiln-ca.crt GIT_SSL_CAINFO=/tmp/kiln-ca.crt
fi
