package templates_test

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/templates"
)

// tellers tell all that they see: the secret as it was when they were imported,
// their environment, and the fields of the request.
var tellers = map[string]map[string]templates.File{
	"python": {"handler.py": text(`
import os
try:
    SECRET = open("/run/secrets/API_KEY").read()
except FileNotFoundError:
    SECRET = ""
def handle(request):
    raw = [name.decode() for name, _ in request.raw_headers]
    return {"secret": SECRET, "env": list(os.environ), "fields": [*request.headers, *raw]}
`)},
	"node": {"handler.js": text(`
import { existsSync, readFileSync } from 'node:fs';
const file = '/run/secrets/API_KEY';
const secret = existsSync(file) ? readFileSync(file, 'utf8') : '';
export default async (request) => Response.json({ secret, env: Object.keys(process.env), fields: [...request.headers.keys()] });
`)},
	"go": {"handler.go": text(`package function

import (
	"encoding/json"
	"net/http"
	"os"
)

var secret, _ = os.ReadFile("/run/secrets/API_KEY")

func Handle(w http.ResponseWriter, r *http.Request) {
	var fields []string
	for name := range r.Header {
		fields = append(fields, name)
	}
	json.NewEncoder(w).Encode(map[string]any{"secret": string(secret), "env": os.Environ(), "fields": fields})
}
`)},
	"exec": {"handler": script(`#!/bin/sh
printf '{"secret": "%s", "env": [' "$(cat /run/secrets/API_KEY 2>/dev/null)"
env | sed 's/=.*//; s/.*/"&",/'
printf '"END"], "fields": []}'
`)},
	"cdylib": {"teller.c": text(`
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
const int32_t teller_kiln_abi = 2;
const char *const teller_kiln_content_type = "application/json";
static char secret[100];
__attribute__((constructor)) static void begin(void)
{
	FILE *f = fopen("/run/secrets/API_KEY", "r");
	if (f) { secret[fread(secret, 1, sizeof secret - 1, f)] = 0; fclose(f); }
}
int32_t teller(const uint8_t *body, size_t len, int32_t (*write)(void *, const uint8_t *, size_t), void *context)
{
	char out[200];
	int n = snprintf(out, sizeof out, "{\"secret\": \"%s\", \"env\": [%s], \"fields\": []}", secret, getenv("KILN_INSTANCE_TOKEN") ? "\"KILN_INSTANCE_TOKEN\"" : "");
	return write(context, (const uint8_t *)out, n);
}
`)},
}

const (
	instanceToken = "the-token-of-this-instance"
	tokenField    = "Kiln-Instance-Token"
)

// TestRuntimesKeepWhatIsPrivate asks every runtime, from its image and as a cell,
// without its token and with wrong ones; and looks at what reaches the handler.
func TestRuntimesKeepWhatIsPrivate(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	for _, tmpl := range c.Templates() {
		if !tmpl.HTTPReady {
			continue // there is no runtime of ours
		}
		t.Run(tmpl.Name, func(t *testing.T) {
			image := functionImage(t, c, tmpl.Name, tellers[tmpl.Name], buildOptions{})
			env := map[string]string{"KILN_FUNCTION": "teller", "PORT": "8080", orchestrator.EnvInstanceToken: instanceToken}
			i := runImage(t, image, nil, env)
			i.waitReady()
			i.wantPrivate("")
			cell := runCell(t, c, tmpl)
			if got := cell.loadSecrets(cellToken, env, map[string][]byte{"API_KEY": []byte("v4lue")}, functionTar(t, image)); got.status != 200 {
				t.Fatalf("load: got %d %s", got.status, got.body)
			}
			cell.wantPrivate("v4lue")
			if mode := docker(t, "exec", cell.id, "stat", "-c", "%a", "/run/secrets/API_KEY"); mode != "400" {
				t.Errorf("the secret's mode is %s, want 400", mode)
			}
		})
	}
}

func (i *instance) wantPrivate(secret string) {
	i.t.Helper()
	for _, shown := range [][]string{nil, {""}, {"wrong"}, {instanceToken + "x"}, {instanceToken[1:]}, {instanceToken, instanceToken}, {"\xe9" + instanceToken[1:]}} {
		for method, body := range map[string]string{http.MethodGet: "", http.MethodPost: "body"} {
			got := i.send(method, "/", http.Header{tokenField: shown}, strings.NewReader(body))
			checkProblem(i.t, got, http.StatusForbidden, "instance-token")
		}
	}
	if got := i.get("/_kiln/ready"); got.status != 200 {
		i.t.Errorf("/_kiln/ready without the token: got %d", got.status)
	}
	for method, body := range map[string]string{http.MethodGet: "", http.MethodPost: "body"} {
		got := i.send(method, "/", http.Header{tokenField: {instanceToken}}, strings.NewReader(body))
		var seen struct {
			Secret      string
			Env, Fields []string
		}
		if err := json.Unmarshal([]byte(got.body), &seen); err != nil || got.status != 200 {
			i.t.Fatalf("with the token: got %d %q, %v", got.status, got.body, err)
		}
		if seen.Secret != secret {
			i.t.Errorf("the secret is %q, want %q", seen.Secret, secret)
		}
		if strings.Contains(got.body, instanceToken) || containsFold(strings.ReplaceAll(got.body, "_", "-"), "instance-token") {
			i.t.Errorf("the handler sees the token: %s", got.body)
		}
	}
}

// TestCell_refusesSecretsThatEscape: a name is a file's, in one folder.
func TestCell_refusesSecretsThatEscape(t *testing.T) {
	requireDocker(t)
	c := embedded(t)
	for _, name := range []string{"python", "node"} { // the others unpack with the host package
		tmpl, err := c.Template(name)
		if err != nil {
			t.Fatal(err)
		}
		names := []string{"../x", "a/b", "..", ""}
		cells := runCells(t, c, tmpl, len(names))
		for k, secret := range names {
			t.Run(name+"/"+secret, func(t *testing.T) {
				cells[k].t = t
				got := cells[k].loadSecrets(cellToken, nil, map[string][]byte{secret: []byte("v4lue")}, codeTar(t, nil))
				if got.status != 422 || !strings.Contains(got.body, "unpacked") || strings.Contains(got.body, "v4lue") {
					t.Errorf("got %d %s, want 422 about unpacking", got.status, got.body)
				}
			})
		}
	}
}
