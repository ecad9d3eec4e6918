"""Creates the permissions to check, to pause, and to give orders to all workers."""

from django.db import migrations


class Migration(migrations.Migration):
    dependencies = [("redispool_app", "0001_initial")]

    operations = [
        migrations.AlterModelOptions(
            name="redispool",
            options={
                "verbose_name": "Redis pool",
                "verbose_name_plural": "Redis pools",
                "permissions": [
                    ("check_redispool", "Can have Redis pools checked at once"),
                    ("reset_redispool", "Can reset Redis pools"),
                    ("pause_redispool", "Can pause and resume Redis pools"),
                    ("order_redispool", "Can give orders to the Redis pools of all workers"),
                ],
                "managed": False,
                "default_permissions": ("view",),
                "base_manager_name": "objects",
            },
        ),
    ]
