"""A method that is made for the features has nothing to say at shared parameters."""


def pytest_collection_modifyitems(config, items):
    def beside(item):
        case = getattr(item, "callspec", None) and item.callspec.params.get("case")
        return getattr(case, "needs_features", False) and "shared_param" in item.name

    beyond = [item for item in items if beside(item)]
    if beyond:
        config.hook.pytest_deselected(items=beyond)
        items[:] = [item for item in items if item not in beyond]
