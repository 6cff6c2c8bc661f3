// Package function is what Kiln serves.
package function

import (
	"encoding/json"
	"net/http"
)

// Handle greets whoever the request names. It is called concurrently.
func Handle(w http.ResponseWriter, r *http.Request) {
	greeting := struct {
		Name string `json:"name"`
	}{Name: "world"}
	if name := r.URL.Query().Get("name"); name != "" {
		greeting.Name = name
	}
	w.Header().Set("Content-Type", "application/json")
	if r.ContentLength != 0 {
		if err := json.NewDecoder(r.Body).Decode(&greeting); err != nil {
			w.WriteHeader(http.StatusBadRequest)
			json.NewEncoder(w).Encode(map[string]string{"error": `send {"name": "…"}`})
			return
		}
	}
	json.NewEncoder(w).Encode(map[string]string{"message": "Hello, " + greeting.Name + "!"})
}
