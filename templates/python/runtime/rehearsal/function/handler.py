"""What a waiting cell rehearses with."""


def handle(request):
    name = request.json()["name"] if request.body else request.query.get("name")
    return {"message": name}
