package orchestrator_test

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnfaas/kiln/orchestrator"
)

func TestSettingsReader(t *testing.T) {
	r := orchestrator.Settings{
		"text": "a", "flag": true, "n": 5.0, "every": "5m", "zero": 0.0, "list": []any{"x", "y"}, "choice": "two", "below": map[string]any{"deep": "z"}, "none": nil,
	}.Reader()
	got := []any{
		r.Text("text", ""), r.Text("absent", "b"), r.Required("text", "text: a"), r.Flag("flag"), r.Flag("off"), r.Int("n", 1, 0, 9), r.Int("m", 1, 0, 9),
		r.Duration("every", 0, 0, time.Hour), r.Duration("zero", 1, 0, time.Hour), r.Texts("list", 2), r.Choice("choice", "one", "two"), r.Choice("other", "one", "two"),
		r.Section("below").Text("deep", ""), r.Text("none", "c"), r.Has("text"), r.Has("none"),
	}
	want := []any{"a", "b", "a", true, false, 5, 1, 5 * time.Minute, time.Duration(0), []string{"x", "y"}, "two", "one", "z", "c", true, false}
	if diff := cmp.Diff(want, got); diff != "" || r.Err() != nil {
		t.Errorf("settings (-want +got): %v\n%s", r.Err(), diff)
	}
}

func TestSettingsReaderErrors(t *testing.T) {
	for name, test := range map[string]struct {
		settings orchestrator.Settings
		read     func(*orchestrator.SettingsReader)
		want     string
	}{
		"text":      {orchestrator.Settings{"a": 1.0}, func(r *orchestrator.SettingsReader) { r.Text("a", "") }, "a"},
		"missing":   {nil, func(r *orchestrator.SettingsReader) { r.Required("a", "a: b") }, "a"},
		"choice":    {orchestrator.Settings{"a": "x"}, func(r *orchestrator.SettingsReader) { r.Choice("a", "y") }, "a"},
		"flag":      {orchestrator.Settings{"a": "true"}, func(r *orchestrator.SettingsReader) { r.Flag("a") }, "a"},
		"number":    {orchestrator.Settings{"a": 1.5}, func(r *orchestrator.SettingsReader) { r.Int("a", 0, 0, 9) }, "a"},
		"range":     {orchestrator.Settings{"a": 10.0}, func(r *orchestrator.SettingsReader) { r.Int("a", 0, 0, 9) }, "a"},
		"duration":  {orchestrator.Settings{"a": "x"}, func(r *orchestrator.SettingsReader) { r.Duration("a", 0, 0, 9) }, "a"},
		"too long":  {orchestrator.Settings{"a": "2h"}, func(r *orchestrator.SettingsReader) { r.Duration("a", 0, 0, time.Hour) }, "a"},
		"list":      {orchestrator.Settings{"a": "x"}, func(r *orchestrator.SettingsReader) { r.Texts("a", 1) }, "a"},
		"many":      {orchestrator.Settings{"a": []any{"x", "y"}}, func(r *orchestrator.SettingsReader) { r.Texts("a", 1) }, "a"},
		"of others": {orchestrator.Settings{"a": []any{1.0}}, func(r *orchestrator.SettingsReader) { r.Texts("a", 1) }, "a"},
		"section":   {orchestrator.Settings{"a": "x"}, func(r *orchestrator.SettingsReader) { r.Section("a") }, "a"},
		"below":     {orchestrator.Settings{"a": map[string]any{"b": 1.0}}, func(r *orchestrator.SettingsReader) { r.Section("a").Text("b", "") }, "a.b"},
		"unknown":   {orchestrator.Settings{"a": "x", "b": "y"}, func(r *orchestrator.SettingsReader) { r.Text("a", "") }, "b"},
		"strange":   {orchestrator.Settings{"a": map[string]any{"b": 1.0}}, func(r *orchestrator.SettingsReader) { r.Section("a") }, "a.b"},
		"a slip":    {orchestrator.Settings{"crom": "x"}, func(r *orchestrator.SettingsReader) { r.Required("cron", "cron: x") }, "crom"},
		"the first": {orchestrator.Settings{"a": 1.0}, func(r *orchestrator.SettingsReader) { r.Required("z", "z: 1"); r.Text("a", "") }, "z"},
	} {
		r := test.settings.Reader()
		test.read(r)
		err := r.Err()
		got, ok := errors.AsType[*orchestrator.SettingError](err)
		if !ok || got.Setting != test.want || !errors.Is(err, orchestrator.ErrInvalid) || got.Cause.Hint == "" {
			t.Errorf("%s: %v, want an error of %q with a hint", name, err, test.want)
		}
	}
}

// TestTriggerJSON: settings stand beside name and type.
func TestTriggerJSON(t *testing.T) {
	want := orchestrator.Trigger{Name: "n", Type: "t", Settings: orchestrator.Settings{"a": []any{1.0, map[string]any{"b": "c"}}}}
	data, err := want.MarshalJSON()
	if err != nil || string(data) != `{"a":[1,{"b":"c"}],"name":"n","type":"t"}` {
		t.Errorf("MarshalJSON = %s, %v", data, err)
	}
	var got orchestrator.Trigger
	if err := got.UnmarshalJSON(data); err != nil || !got.Equal(want) {
		t.Errorf("UnmarshalJSON = %+v, %v", got, err)
	}
	if err := got.UnmarshalJSON([]byte(`{"name":"n"}`)); err == nil {
		t.Error("a trigger without a type is read")
	}
	spec := orchestrator.Spec{Triggers: []orchestrator.Trigger{want}}
	clone := spec.Clone()
	clone.Triggers[0].Settings["a"].([]any)[1].(map[string]any)["b"] = "changed"
	if !spec.Triggers[0].Equal(want) {
		t.Error("a clone shares settings with its original")
	}
}
