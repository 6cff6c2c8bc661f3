package main_test

import (
	"io"
	"net/http"
	"time"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/orchestrator"
)

// stubBuckets answers for a bucket "photos" with one object, cat.jpg, and takes
// what is put.
func stubBuckets(mux *http.ServeMux) {
	cat := func() orchestrator.Object {
		return orchestrator.Object{Bucket: "photos", Key: "2026/cat.jpg", Size: 4 << 20, ContentType: "image/jpeg", ModifiedAt: time.Now().Add(-3 * time.Hour)}
	}
	mux.HandleFunc("GET /v1/buckets", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, api.BucketList{Buckets: []api.Bucket{{Name: "photos"}}})
	})
	mux.HandleFunc("GET /v1/buckets/{bucket}", func(w http.ResponseWriter, r *http.Request) {
		list := api.ObjectList{Objects: []orchestrator.Object{}}
		if r.URL.Query().Get("prefix") != "absent/" {
			list.Objects = append(list.Objects, cat())
		}
		if r.URL.Query().Get("limit") == "1" {
			list.Next = cat().Key
		}
		answer(w, list)
	})
	mux.HandleFunc("/v1/buckets/photos/{key...}", func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method == http.MethodPut:
			n, _ := io.Copy(io.Discard, r.Body)
			answer(w, orchestrator.Object{Bucket: "photos", Key: r.PathValue("key"), Size: n, ContentType: r.Header.Get("Content-Type")})
		case r.PathValue("key") == "torn":
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, "half")
		case r.PathValue("key") != "2026/cat.jpg":
			problem(w, http.StatusNotFound, "object-not-found", "there is no object "+r.PathValue("key"), "kiln bucket ls photos")
		case r.Method == http.MethodDelete:
			w.WriteHeader(http.StatusNoContent)
		default:
			io.WriteString(w, "meow\n")
		}
	})
}
