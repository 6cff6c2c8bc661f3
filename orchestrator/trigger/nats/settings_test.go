package nats_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/kilnfaas/kiln/orchestrator"
	"github.com/kilnfaas/kiln/orchestrator/trigger/nats"
)

func TestSettings(t *testing.T) {
	some := []any{"orders.>"}
	for _, test := range []struct {
		name     string
		settings orchestrator.Settings
		wrong    string // the setting that is to blame; "" = none
	}{
		{"subjects", orchestrator.Settings{"subjects": some}, ""},
		{"a group", orchestrator.Settings{"subjects": some, "queue": "workers"}, ""},
		{"a stream", orchestrator.Settings{"stream": "ORDERS"}, ""},
		{"a stream from a time on", orchestrator.Settings{"stream": "ORDERS", "start": "2026-01-31T00:00:00Z", "subjects": some, "ack_wait": "5s", "max_ack_pending": float64(10), "order": "subject"}, ""},
		{"somebody's consumer", orchestrator.Settings{"stream": "ORDERS", "consumer": "mine"}, ""},
		{"another server", orchestrator.Settings{"subjects": some, "url": "nats://a:4222,tls://b", "secret": "s"}, ""},
		{"nothing", orchestrator.Settings{}, "subjects"},
		{"a slip", orchestrator.Settings{"subjects": some, "qeue": "workers"}, "qeue"},
		{"no subject", orchestrator.Settings{"subjects": []any{"orders..new"}}, "subjects"},
		{"a wildcard within", orchestrator.Settings{"subjects": []any{"orders.n*"}}, "subjects"},
		{"a tail within", orchestrator.Settings{"subjects": []any{"orders.>.new"}}, "subjects"},
		{"a blank", orchestrator.Settings{"subjects": []any{"orders new"}}, "subjects"},
		{"two that overlap", orchestrator.Settings{"subjects": []any{"orders.*.new", "orders.eu.>"}}, "subjects"},
		{"the gateway's own", orchestrator.Settings{"subjects": []any{"kiln.journal"}}, "subjects"},
		{"of another server, it is not", orchestrator.Settings{"subjects": []any{"kiln.journal"}, "url": "nats://a"}, ""},
		{"a group of a stream", orchestrator.Settings{"stream": "ORDERS", "queue": "workers"}, "queue"},
		{"a start without a stream", orchestrator.Settings{"subjects": some, "start": "all"}, "start"},
		{"no start", orchestrator.Settings{"stream": "ORDERS", "start": "yesterday"}, "start"},
		{"no name", orchestrator.Settings{"stream": "ORDERS.EU"}, "stream"},
		{"a consumer and a filter", orchestrator.Settings{"stream": "ORDERS", "consumer": "mine", "subjects": some}, "subjects"},
		{"another protocol", orchestrator.Settings{"subjects": some, "url": "http://a:4222"}, "url"},
		{"a password in the open", orchestrator.Settings{"subjects": some, "url": "nats://me:hunter2@a:4222"}, "url"},
		{"a secret for nobody", orchestrator.Settings{"subjects": some, "secret": "s"}, "secret"},
	} {
		t.Run(test.name, func(t *testing.T) {
			source := nats.Source{Private: func(subject string) bool { return strings.HasPrefix(subject, "kiln.") }}
			err := source.Check(orchestrator.Trigger{Name: "t", Type: nats.Type, Settings: test.settings})
			at := ""
			if place, ok := errors.AsType[*orchestrator.SettingError](err); ok {
				at = place.Setting
			}
			if at != test.wrong || (err == nil) != (test.wrong == "") {
				t.Errorf("Check = %v, want an error about %q", err, test.wrong)
			}
			if err != nil && strings.Contains(err.Error(), "hunter2") {
				t.Errorf("the error tells a password: %v", err)
			}
		})
	}
}
