package docker_test

import (
	"bytes"
	"encoding/json"
	"net/url"
	"strings"
	"testing"

	"github.com/docker/docker/api/types/container"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/docker"
)

// secretValue is what must be nowhere but in its file.
const secretValue = "v4lue-that-nobody-else-sees"

// withSecrets is a client whose containers can have secrets.
func withSecrets(t *testing.T) (*docker.Client, string) {
	t.Helper()
	image := probe.require(t, open(t, docker.Options{}))
	return open(t, docker.Options{Labels: owned(t), Program: probe.program()}), image
}

func TestSecretsAreOnMemoryAloneAndTheUsersOwn(t *testing.T) {
	client, image := withSecrets(t)
	c, ask := served(t, client, orchestrator.ContainerConfig{
		Image: image, Secrets: map[string][]byte{"API_KEY": []byte(secretValue)},
		Limits: orchestrator.Limits{Memory: 64 * orchestrator.MiB, CPU: 1, Pids: 40},
	})
	file := orchestrator.SecretsPath + "/API_KEY"
	if got, err := ask("/file", url.Values{"path": {file}}); err != nil || got != secretValue {
		t.Errorf("got %q, %v", got, err)
	}
	if got, err := ask("/mode", url.Values{"path": {file}}); err != nil || got != "-r-------- 65532" {
		t.Errorf("mode and owner: got %q, %v", got, err)
	}
	mounts, err := ask("/file", url.Values{"path": {"/proc/self/mounts"}})
	if err != nil || !strings.Contains(mounts, orchestrator.SecretsPath+" tmpfs rw,nosuid,nodev,noexec") {
		t.Errorf("not on a tmpfs, %v:\n%s", err, mounts)
	}
	// Whatever the process shows of itself.
	for _, path := range []string{"/proc/self/environ", "/proc/self/cmdline", "/proc/1/environ", "/proc/1/cmdline"} {
		if got, _ := ask("/file", url.Values{"path": {path}}); strings.Contains(got, secretValue) {
			t.Errorf("%s has the value", path)
		}
	}
	if got, err := ask("/file", url.Values{"path": {"/proc/self/fd/0"}}); err != nil || got != "" {
		t.Errorf("the input: got %q, %v; want it empty", got, err)
	}
	details, _, err := client.API().ContainerInspectWithRaw(t.Context(), c.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	shown, err := json.Marshal(details)
	if err != nil || bytes.Contains(shown, []byte(secretValue)) || bytes.Contains(shown, []byte("API_KEY")) {
		t.Errorf("what the engine tells has the secret: %v\n%s", err, shown)
	}
	for line, err := range client.Logs(t.Context(), c.ID, orchestrator.LogOptions{Tail: -1}) {
		if err != nil || strings.Contains(line.Text, secretValue) {
			t.Errorf("the log: %q, %v", line.Text, err)
		}
	}
	if top, err := client.API().ContainerTop(t.Context(), c.ID, nil); err != nil || len(top.Processes) != 2 {
		t.Errorf("processes: %v, %v; want the init and the command", top.Processes, err)
	}
	changes, err := client.API().ContainerDiff(t.Context(), c.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range changes {
		if strings.Contains(change.Path, "API_KEY") {
			t.Errorf("on the container's disk: %+v", change)
		}
	}
}

// TestSecretsOfAnImagesOwnCommand runs images whose command does not work, and
// one whose user is somebody else.
func TestSecretsOfAnImagesOwnCommand(t *testing.T) {
	client, image := withSecrets(t)
	config := orchestrator.ContainerConfig{
		Image: image, Secrets: map[string][]byte{"K": []byte(secretValue)},
		Limits: orchestrator.Limits{Memory: 64 * orchestrator.MiB, CPU: 1, Pids: 40},
	}
	own := config
	own.Image = built(t, client, "USER function", "ENTRYPOINT []", `CMD ["/probe", "serve"]`)
	_, ask := served(t, client, own)
	if got, err := ask("/mode", url.Values{"path": {orchestrator.SecretsPath + "/K"}}); err != nil || got != "-r-------- 1234" {
		t.Errorf("mode and owner: got %q, %v", got, err)
	}
	for command, want := range map[string]string{"/absent": "no such file", "nothing": "executable file not found"} {
		broken := config
		broken.Image = built(t, client, "ENTRYPOINT []", `CMD ["`+command+`"]`)
		broken.Name, broken.Labels = session+"-broken-"+strings.Trim(command, "/"), owned(t)
		c, err := client.Run(t.Context(), broken)
		if err != nil {
			t.Fatal(err)
		}
		ended, failed := client.API().ContainerWait(t.Context(), c.ID, container.WaitConditionNotRunning)
		select {
		case end := <-ended:
			if end.StatusCode != 127 {
				t.Errorf("%s: ended with %d, want 127", command, end.StatusCode)
			}
		case err := <-failed:
			t.Error(err)
		}
		var log string
		for line, err := range client.Logs(t.Context(), c.ID, orchestrator.LogOptions{Tail: -1}) {
			if err != nil {
				t.Fatal(err)
			}
			log += line.Text
		}
		if !strings.Contains(log, want) || strings.Contains(log, secretValue) {
			t.Errorf("%s: the log is %q, want %q in it", command, log, want)
		}
		if err := client.Stop(t.Context(), c.ID, 0); err != nil {
			t.Error(err)
		}
	}
}

// TestSecretsSurviveTheLossOfTheVolume removes what hands secrets over behind the
// client's back.
func TestSecretsSurviveTheLossOfTheVolume(t *testing.T) {
	client, image := withSecrets(t)
	config := orchestrator.ContainerConfig{
		Image: image, Secrets: map[string][]byte{"K": []byte(secretValue)},
		Limits: orchestrator.Limits{Memory: 64 * orchestrator.MiB, CPU: 1, Pids: 40},
		Name:   session + "-volume", Labels: owned(t), Command: []string{"script", "exit 3"},
	}
	for range 2 {
		c, err := client.Run(t.Context(), config)
		if err != nil {
			t.Fatal(err)
		}
		ended, failed := client.API().ContainerWait(t.Context(), c.ID, container.WaitConditionNotRunning)
		select {
		case end := <-ended:
			if end.StatusCode != 3 {
				t.Errorf("the container ended with %d, want its command's 3", end.StatusCode)
			}
		case err := <-failed:
			t.Error(err)
		}
		details, err := client.API().ContainerInspect(t.Context(), c.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := client.Stop(t.Context(), c.ID, 0); err != nil {
			t.Fatal(err)
		}
		removed := 0
		for _, m := range details.Mounts {
			if m.Name == "" {
				continue
			}
			removed++
			if err := client.API().VolumeRemove(t.Context(), m.Name, true); err != nil {
				t.Fatal(err)
			}
		}
		if removed != 1 {
			t.Fatalf("%d volumes removed, want the one with the program: %+v", removed, details.Mounts)
		}
	}
}

func TestSecretsNeedAProgram(t *testing.T) {
	client := open(t, docker.Options{})
	_, err := client.Run(t.Context(), orchestrator.ContainerConfig{
		Image: probe.require(t, client), Name: session + "-none", Labels: owned(t), Secrets: map[string][]byte{"K": []byte(secretValue)},
	})
	if err == nil || strings.Contains(err.Error(), secretValue) {
		t.Errorf("got %v", err)
	}
}
