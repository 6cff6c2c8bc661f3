package gateway

import (
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gorilla/mux"

	"github.com/kilnfaas/kiln/gateway/api"
	"github.com/kilnfaas/kiln/gateway/problem"
	"github.com/kilnfaas/kiln/orchestrator"
)

const (
	// bucketsPath is where buckets are. Functions may go there, too.
	bucketsPath = "/v1/buckets"
	// objectTime bounds the upload of an object: the largest at 750 kB/s.
	objectTime = 24 * time.Hour
	// defaultObjects is how many objects a page has.
	defaultObjects = 100
)

// inBuckets says whether a route is about buckets.
func inBuckets(r route) bool {
	return r.path == bucketsPath || strings.HasPrefix(r.path, bucketsPath+"/")
}

// keyOf returns the key of the object that the path names.
func keyOf(r *http.Request) string {
	escaped := mux.Vars(r)["path"]
	key, err := url.PathUnescape(escaped)
	if err != nil {
		return ""
	}
	return key
}

// errNoBuckets is a gateway that keeps no files.
var errNoBuckets = orchestrator.Errorf(orchestrator.ErrNotFound, "bucket-unknown", "this gateway keeps no buckets")

func (s *Server) listBuckets(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	list := api.BucketList{Buckets: []api.Bucket{}}
	if s.Buckets != nil {
		names, err := s.Buckets.Buckets(r.Context())
		if err != nil {
			return err
		}
		for _, name := range names {
			list.Buckets = append(list.Buckets, api.Bucket{Name: name})
		}
	}
	return writeJSON(w, http.StatusOK, list)
}

func (s *Server) listObjects(w http.ResponseWriter, r *http.Request) error {
	if err := acceptJSON(r); err != nil {
		return err
	}
	if s.Buckets == nil {
		return errNoBuckets
	}
	values := r.URL.Query()
	filter := orchestrator.ObjectFilter{Prefix: values.Get("prefix"), After: values.Get("after"), Limit: defaultObjects}
	if text := values.Get("limit"); values.Has("limit") {
		var err error
		if filter.Limit, err = strconv.Atoi(text); err != nil || filter.Limit < 1 || filter.Limit > orchestrator.MaxObjectList {
			return problem.Parameter("limit", text, "give a number from 1 to "+strconv.Itoa(orchestrator.MaxObjectList))
		}
	}
	page, more, err := s.Buckets.Objects(r.Context(), name(r), filter)
	if err != nil {
		return err
	}
	list := api.ObjectList{Objects: page}
	if more && len(page) > 0 {
		list.Next = page[len(page)-1].Key
	}
	return writeJSON(w, http.StatusOK, list)
}

// expected returns the check that the conditions of a request are (RFC 9110,
// section 13.1); nil when it has none.
func expected(r *http.Request) orchestrator.ObjectCheck {
	match, none := strings.Join(r.Header.Values("If-Match"), ","), strings.Join(r.Header.Values("If-None-Match"), ",")
	if match == "" && none == "" {
		return nil
	}
	return func(there *orchestrator.Object) error {
		if match != "" && !lists(match, there) || none != "" && lists(strings.ReplaceAll(none, "W/", ""), there) {
			return problem.Precondition()
		}
		return nil
	}
}

// lists says whether an object's tag is in a list of them; "*" is any.
func lists(tags string, there *orchestrator.Object) bool {
	for tag := range strings.SplitSeq(tags, ",") {
		tag = strings.TrimSpace(tag)
		if there != nil && (tag == "*" || tag == quoted(there.ETag)) {
			return true
		}
	}
	return false
}

func quoted(etag string) string { return `"` + etag + `"` }

func (s *Server) putObject(w http.ResponseWriter, r *http.Request) error {
	if s.Buckets == nil {
		return errNoBuckets
	}
	if r.Header.Get("Content-Range") != "" {
		return problem.Header("Content-Range", r.Header.Get("Content-Range"), "an object is written whole")
	}
	if r.ContentLength > orchestrator.MaxObjectSize {
		return &http.MaxBytesError{Limit: orchestrator.MaxObjectSize}
	}
	if body, ok := r.Body.(*requestBody); ok {
		body.end = time.Now().Add(objectTime)
	}
	media := r.Header.Get("Content-Type")
	if media == "" {
		media = orchestrator.DefaultMedia
	}
	object, created, err := s.Buckets.PutObject(r.Context(), orchestrator.Object{Bucket: name(r), Key: keyOf(r), ContentType: media}, r.Body, expected(r))
	if err != nil {
		return err
	}
	w.Header().Set("ETag", quoted(object.ETag))
	status := http.StatusOK
	if created {
		status = http.StatusCreated
	}
	return writeJSON(w, status, object)
}

func (s *Server) deleteObject(w http.ResponseWriter, r *http.Request) error {
	if s.Buckets == nil {
		return errNoBuckets
	}
	if err := s.Buckets.DeleteObject(r.Context(), name(r), keyOf(r), expected(r)); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// getObject answers with an object or a part of it. net/http knows conditions and
// ranges; what it refuses is told as everywhere.
func (s *Server) getObject(w http.ResponseWriter, r *http.Request) error {
	if s.Buckets == nil {
		return errNoBuckets
	}
	reader, err := s.Buckets.OpenObject(r.Context(), name(r), keyOf(r))
	if err != nil {
		return err
	}
	defer reader.Close()
	object := reader.Object()
	header := w.Header()
	header.Set("Content-Type", object.ContentType)
	header.Set("ETag", quoted(object.ETag))
	header.Set("Cache-Control", "private, no-cache")
	if strings.Contains(r.Header.Get("Range"), ",") {
		r = r.Clone(r.Context())
		r.Header.Del("Range") // several ranges: many small ones would cost much more than they give
	}
	content := &watchedReader{ObjectReader: reader}
	answer := &refusing{ResponseWriter: w}
	http.ServeContent(answer, r, "", object.ModifiedAt, content)
	switch answer.refused {
	case http.StatusPreconditionFailed:
		return problem.Precondition()
	case http.StatusRequestedRangeNotSatisfiable:
		return problem.Range()
	}
	if content.err != nil && r.Context().Err() == nil {
		s.Log.Error("an object was not read to its end", "bucket", object.Bucket, "key", object.Key, "error", content.err)
		panic(http.ErrAbortHandler) // half of it must not look whole
	}
	return nil
}

// watchedReader keeps the error of an object's reader, which net/http does not tell.
type watchedReader struct {
	orchestrator.ObjectReader
	err error
}

// Read implements io.Reader.
func (r *watchedReader) Read(p []byte) (int, error) {
	n, err := r.ObjectReader.Read(p)
	if err != nil && err != io.EOF {
		r.err = err
	}
	return n, err
}

// refusing keeps refusals back, to be told as a problem.
type refusing struct {
	http.ResponseWriter
	refused int // status; 0 = it is none
}

// WriteHeader implements http.ResponseWriter.
func (w *refusing) WriteHeader(status int) {
	if status >= http.StatusBadRequest {
		w.refused = status
		return
	}
	w.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (w *refusing) Write(p []byte) (int, error) {
	if w.refused != 0 {
		return len(p), nil
	}
	return w.ResponseWriter.Write(p)
}
