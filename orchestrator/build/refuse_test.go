package build_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/build"
)

func TestRefusedDockerfiles(t *testing.T) {
	runs := func(n int) string { return strings.Repeat("RUN true\n", n) }
	for _, tt := range []struct {
		name, text, code string
	}{
		{"ordinary", "FROM a AS b\nWORKDIR /x\nCOPY . .\nRUN make\nFROM scratch\nCOPY --from=b /x /x\n", ""},
		{"99 layers", "FROM a\n" + runs(99), ""},
		{"101 layers", "FROM a\n" + runs(101), "dockerfile-too-deep"},
		{"1,000 layers", "FROM a\n" + runs(1000), "dockerfile-too-long"},
		{"a stage on a stage", "FROM a AS one\n" + runs(60) + "FROM one\n" + runs(60), "dockerfile-too-deep"},
		{"stages side by side", "FROM a AS one\n" + runs(60) + "FROM a AS two\n" + runs(60), ""},
		{"labels are no layers", "FROM a\n" + strings.Repeat("LABEL a=b\n", 200), ""},
		{"many stages", strings.Repeat("FROM a\n", 501), "dockerfile-too-long"},
		{"a script", "FROM a\nRUN <<EOF\n" + runs(1000) + "EOF\n", ""},
		{"no FROM", runs(3), ""},
		{"empty", "", ""},

		{"ADD a file", "FROM a\nADD app.tar.gz ${HOME}/app\nADD --chown=1:1 x y /z/\n", ""},
		{"ADD a here-document", "FROM a\nADD <<EOF /x\nhttp://a/b\nEOF\n", ""},
		{"COPY with a colon", "FROM a\nCOPY a:b $X/c /d\n", ""},
		{"ADD a URL", "FROM a\nADD http://169.254.169.254/latest/ /x\n", "dockerfile-add-remote"},
		{"add a URL", "FROM a\nadd --chown=1:1 HTTPS://a/b /x\n", "dockerfile-add-remote"},
		{"ADD it as a list", `FROM a
ADD ["http://a/b", "/x"]`, "dockerfile-add-remote"},
		{"ADD it in disguise", `FROM a
ADD ["http\u003a//a/b", "/x"]`, "dockerfile-add-remote"},
		{"ADD it in two lines", "FROM a\nADD http:\\\n//a/b /x\n", "dockerfile-add-remote"},
		{"ADD it by a variable", "FROM a\nARG U=http://a/b\nADD $U /x\n", "dockerfile-add-remote"},
		{"ADD it with another escape", "# escape=`\nFROM a\nADD ht`\ntp://a/b /x\n", "dockerfile-add-remote"},
		{"ADD a repository", "FROM a\nADD git@example.com:a/b.git /x\n", "dockerfile-add-remote"},
		{"ADD it without a scheme", "FROM a\nADD github.com/a/b /x\n", "dockerfile-add-remote"},
		{"ADD it later", "FROM a AS b\nONBUILD ADD http://a/b /x\nFROM b\n", "dockerfile-add-remote"},
		{"ADD it in a name of two lines", "FROM a\nAD\\\nD http://a/b /x\n", "dockerfile-add-remote"},
		{"ADD it after an empty line", "FROM a\nADD \\\n\nhttp://a/b /x\n", "dockerfile-add-remote"},
		{"ADD it where old builders have no here-document", "FROM a\nRUN : <<EOF\nADD http://a/b /x\nEOF\n", "dockerfile-add-remote"},
		{"ADD it after a shift", "FROM a\nRUN echo $((1<<2))\nADD http://a/b /x\n", "dockerfile-add-remote"},
		{"ADD it after another blank", "FROM a\n\u00a0ADD\fhttp://a/b /x\n", "dockerfile-add-remote"},
		{"ADD it after a comment that goes on", "FROM a\n# x \\\nADD http://a/b /x\n", "dockerfile-add-remote"},
		{"ADD it after two escapes", "FROM a\nRUN x \\\\\nADD http://a/b /x\n", "dockerfile-add-remote"},
		{"ADD it after an escape that is none", "# foo=1\n# escape=`\nFROM a\nAD\\\nD http://a/b /x\n", "dockerfile-add-remote"},
		{"RUN what begins with add", "FROM a\nRUN x && \\\n  add-apt-repository ppa:a/b -y\n", ""},
		{"ADD in two lines", "FROM a\nADD a b \\\n  /c/\n", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := build.Refuse("Dockerfile", []byte(tt.text))
			var known *orchestrator.Error
			switch {
			case tt.code == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.code != "" && (!errors.Is(err, orchestrator.ErrInvalid) || !errors.As(err, &known) || known.Code != tt.code || known.Hint == ""):
				t.Errorf("got %v, want %s", err, tt.code)
			}
		})
	}
}

// TestRefusedBeforeAnythingIsBuilt: also before base images are fetched.
func TestRefusedBeforeAnythingIsBuilt(t *testing.T) {
	r := newRig(t, nil)
	rev := r.revision(t, map[string]string{"Dockerfile": "FROM " + debian + "\n" + strings.Repeat("RUN true\n", 1000)})
	_, got, err := r.build(t, rev, "dockerfile")
	if err == nil || !strings.Contains(err.Error(), "1001 instructions, 500 are allowed") {
		t.Errorf("got %v", err)
	}
	if n := len(r.engine.built()); n != 0 || len(got.events) != 0 {
		t.Errorf("%d builds, and %v", n, got.events)
	}
}
